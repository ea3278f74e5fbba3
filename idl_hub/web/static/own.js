// What a student sees of the GPUs: their own, and how many are free.

import { connect, find, hub, prefix, say } from "./live.js";
import { degrees, draw, memory, percent, plotWords } from "./figures.js";

function show(me) {
  find("simulated").hidden = !me.simulated;
  say(find("free"), String(me.free));
  say(find("total"), String(me.total));
  say(find("waiting"), me.waiting ? `${me.waiting} ${me.waiting === 1 ? "person waits" : "people wait"} in the line.` : "Nobody waits.");
  showNext(me);
  const gpus = me.session?.gpus ?? [];
  const none = find("mine-none");
  none.hidden = gpus.length > 0;
  say(none, me.session ? "Your server runs without a GPU." : "You have no GPU: your server is not running.");
  showGPUs(gpus, me.session);
}

function showNext(me) {
  const next = find("next");
  next.hidden = false;
  if (me.ticket) {
    say(next, me.ticket.position ? `See my place in the line (${me.ticket.position})` : "See how my start goes");
    next.href = `${prefix}line`;
  } else {
    say(next, me.session ? "Home" : "Start my server");
    next.href = me.session ? `${hub}home` : `${hub}spawn`;
  }
}

function showGPUs(gpus, session) {
  const box = find("mine");
  while (box.children.length > gpus.length) box.lastElementChild.remove();
  gpus.forEach((gpu, number) => {
    if (!box.children[number]) box.append(find("gpu-template").content.cloneNode(true));
    showGPU(box.children[number], gpu, session);
  });
}

function showGPU(card, gpu, session) {
  say(card.querySelector("h3"), `GPU ${gpu.index} of ${session.server}: ${gpu.name}`);
  const reason = card.querySelector(".reason");
  reason.hidden = gpu.health === "ok";
  say(reason, `Something is wrong with it: ${gpu.reason}`);
  const values = { Load: percent(gpu.utilization_ratio), Memory: memory(gpu), Temperature: degrees(gpu.temperature_celsius) };
  fill(card.querySelector("dl"), values);
  draw(card.querySelector("svg"), gpu.utilization_percent_by_minute);
  const words = plotWords(gpu.utilization_percent_by_minute);
  say(card.querySelector("figcaption"), words);
  card.querySelector("svg").setAttribute("aria-label", words);
}

function fill(list, values) {
  const entries = Object.entries(values);
  if (!list.children.length) {
    for (const [name] of entries) {
      const group = document.createElement("div");
      group.append(Object.assign(document.createElement("dt"), { textContent: name }), document.createElement("dd"));
      list.append(group);
    }
  }
  entries.forEach(([, value], number) => say(list.children[number].querySelector("dd"), value));
}

connect({ me: show });
