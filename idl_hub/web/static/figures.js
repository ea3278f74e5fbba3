// How figures of GPUs are written and drawn.

const GIB = 2 ** 30;
export const percent = (ratio) => (ratio === null ? "–" : `${Math.round(ratio * 100)} %`);
export const gib = (bytes) => (bytes / GIB).toFixed(1);
export const degrees = (celsius) => (celsius === null ? "–" : `${celsius} °C`);

export function memory(gpu) {
  if (gpu.memory_used_bytes === null || gpu.memory_total_bytes === null) return "memory unknown";
  return `${gib(gpu.memory_used_bytes)} of ${gib(gpu.memory_total_bytes)} GiB`;
}

export function duration(seconds) {
  const minutes = Math.max(0, Math.floor(seconds / 60));
  if (minutes < 1) return "less than a minute";
  return minutes < 90 ? `${minutes} min` : `${Math.round(minutes / 60)} h`;
}

/** Draw an hour of percentages into an SVG of 60 by 20; where nothing was read there is a gap. */
export function draw(svg, points) {
  let curve = "";
  let area = "";
  let start = null;
  const y = (value) => (19.5 - value * 0.19).toFixed(1);
  points.forEach((value, x) => {
    if (value === null) {
      if (start !== null) area += `L${x - 1} 20Z`;
      start = null;
      return;
    }
    curve += `${start === null ? "M" : "L"}${x} ${y(value)}`;
    if (start === null) area += `M${x} 20`;
    area += `L${x} ${y(value)}`;
    start ??= x;
  });
  if (start !== null) area += `L${points.length - 1} 20Z`;
  svg.querySelector(".curve").setAttribute("d", curve);
  svg.querySelector(".area").setAttribute("d", area);
}

export function plotWords(points) {
  const read = points.filter((value) => value !== null);
  if (!read.length) return "Utilization over the last hour: no full minute was read yet";
  const mean = Math.round(read.reduce((sum, value) => sum + value, 0) / read.length);
  return `Utilization over the last hour: ${mean} % on average, ${Math.max(...read)} % at most`;
}
