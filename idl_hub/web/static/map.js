// The map: servers as rows, GPUs as tiles. Tiles are made once and then only their changed texts are set.

import { clock, connect, find, say, serverNow } from "./live.js";
import { degrees, draw, memory, percent } from "./figures.js";
import { openDetails, refreshDetails } from "./details.js";
import { confirmed } from "./confirm.js";
import { showLine } from "./places.js";

export const may = JSON.parse(find("main").dataset.may);
const STATES = {
  free: "free", taken: "taken", foreign: "outside use", sick: "sick", closed: "out of service", unknown: "unknown",
};
const SHOW_REASON = ["sick", "closed", "unknown"];
let model = null;
const rows = new Map(); // server -> its elements
const tiles = new Map(); // GPU -> its elements
let made = 0; // rows so far, also of servers that have left

function whole(picture) {
  model = picture;
  for (const key of [...tiles.keys()]) if (!model.gpus[key]) forget(key);
  for (const name of [...rows.keys()]) if (!model.servers[name]) forgetServer(name);
  for (const name of Object.keys(model.servers)) showServer(name);
  for (const key of Object.keys(model.gpus)) showTile(key);
  sortTiles();
  showRest();
}

function change(news) {
  if (!model) return;
  for (const part of ["servers", "gpus"]) {
    for (const [key, values] of Object.entries(news[part] ?? {})) {
      if (values === null) delete model[part][key];
      else Object.assign((model[part][key] ??= {}), values);
    }
  }
  if (news.line) model.line = news.line;
  if (news.totals) model.totals = news.totals;
  let moved = false;
  for (const name of Object.keys(news.servers ?? {})) {
    if (model.servers[name]) showServer(name);
    else forgetServer(name);
  }
  for (const key of Object.keys(news.gpus ?? {})) {
    if (!model.gpus[key]) forget(key);
    else {
      moved ||= !tiles.has(key);
      showTile(key);
    }
  }
  if (moved) sortTiles();
  if (news.line || news.totals || news.servers) showRest();
  refreshDetails(model);
}

function showRest() {
  const { gpus, free, taken, other, simulated } = model.totals;
  const waiting = model.line.filter((place) => place.position).length;
  const parts = [`${free} of ${gpus} free`, `${taken} taken`];
  if (other) parts.push(`${other} not given out`);
  if (waiting) parts.push(`${waiting} waiting`);
  say(find("totals"), parts.join(" · "));
  find("simulated").hidden = !simulated;
  const known = Object.keys(model.servers).length > 0;
  find("loading").hidden = known;
  if (!known) say(find("loading"), "No server has told of any GPU yet. When this stays so, look whether the agents or the driver run (docs: runbook, “A GPU is not given out”).");
  find("servers").setAttribute("aria-busy", "false");
  showLine(model.line, may.line);
}

function showServer(name) {
  const server = model.servers[name];
  let row = rows.get(name);
  if (!row) {
    const section = find("server-template").content.cloneNode(true).firstElementChild;
    const [heading, drained, facts, button, list] = [".name", ".drained", ".facts", ".drain", ".idl-tiles"].map((part) => section.querySelector(part));
    heading.textContent = name;
    heading.id = `server-${made++}`;
    section.setAttribute("aria-labelledby", heading.id);
    button?.addEventListener("click", () => drain(name));
    row = { section, drained, facts, button, list };
    rows.set(name, row);
    const after = [...rows.keys()].filter((other) => other > name).sort(inOrder)[0];
    find("servers").insertBefore(section, after ? rows.get(after).section : null);
  }
  row.drained.hidden = !server.drained;
  say(row.drained, server.drained ? `drained: ${server.drained.reason} (${server.drained.by})` : "");
  if (row.button) say(row.button, server.drained ? "Bring back" : "Drain …");
  row.button?.setAttribute("aria-label", server.drained ? `Bring ${name} back` : `Drain ${name}`);
  row.section.classList.toggle("unwell", !server.healthy);
  say(row.facts, factsOf(server));
}

function factsOf(server) {
  if (server.last_reading_at) return `no reading since ${clock(server.last_reading_at)}: its GPUs are unknown and not given out`;
  if (!server.healthy || server.leaving) return `${server.health} · ${sessionsOf(server)}`;
  const facts = [server.has_gpus ? `${server.free} of ${server.gpus} free` : "no GPUs", sessionsOf(server)];
  if (server.cpu_utilization_ratio !== null) facts.push(`CPU ${percent(server.cpu_utilization_ratio)} of ${server.cpu_count} cores`);
  if (server.memory_total_bytes !== null) {
    const GIB = 2 ** 30;
    const used = (server.memory_total_bytes - server.memory_available_bytes) / GIB;
    facts.push(`memory ${Math.round(used)} of ${Math.round(server.memory_total_bytes / GIB)} GiB`);
  }
  return facts.join(" · ");
}

const sessionsOf = ({ sessions }) => `${sessions} ${sessions === 1 ? "session" : "sessions"}`;

function showTile(key) {
  const gpu = model.gpus[key];
  let tile = tiles.get(key);
  if (!tile) {
    const item = find("tile-template").content.cloneNode(true).firstElementChild;
    const part = (name) => item.querySelector(name);
    tile = {
      item, button: part("button"), index: part(".index"), holder: part(".holder"), load: part(".load"),
      heat: part(".heat"), bar: part(".bar > span"), memory: part(".memory"), plot: part("svg"), points: "",
    };
    tile.button.addEventListener("click", () => openDetails(key, model, may));
    tiles.set(key, tile);
    (rows.get(gpu.server)?.list ?? find("servers")).append(item);
  }
  tile.button.dataset.state = gpu.state;
  say(tile.index, `#${gpu.index}`);
  say(tile.holder, gpu.holder ?? STATES[gpu.state]);
  say(tile.load, percent(gpu.utilization_ratio));
  say(tile.heat, degrees(gpu.temperature_celsius));
  const used = gpu.memory_total_bytes ? (gpu.memory_used_bytes ?? 0) / gpu.memory_total_bytes : 0;
  tile.bar.style.transform = `scaleX(${used.toFixed(3)})`;
  say(tile.memory, SHOW_REASON.includes(gpu.state) ? gpu.reason : memory(gpu));
  const points = gpu.utilization_percent_by_minute.join();
  if (points !== tile.points) {
    tile.points = points;
    draw(tile.plot, gpu.utilization_percent_by_minute);
  }
  tile.button.setAttribute("aria-label", describe(gpu));
}

export function describe(gpu) {
  const who = gpu.holder ? `taken by ${gpu.holder}` : STATES[gpu.state];
  const why = ["sick", "closed", "unknown", "foreign"].includes(gpu.state) ? `: ${gpu.reason}` : "";
  if (gpu.utilization_ratio === null) return `GPU ${gpu.index} of ${gpu.server}, ${who}${why}`;
  return `GPU ${gpu.index} of ${gpu.server}, ${who}${why}, load ${percent(gpu.utilization_ratio)}, memory ${memory(gpu)}, ${degrees(gpu.temperature_celsius)}`;
}

const inOrder = (one, other) => one.localeCompare(other, undefined, { numeric: true });

function sortTiles() {
  for (const [name, row] of rows) {
    const own = Object.keys(model.gpus).filter((key) => model.gpus[key].server === name);
    own.sort((one, other) => model.gpus[one].index - model.gpus[other].index);
    row.list.append(...own.map((key) => tiles.get(key).item));
  }
}

function forget(key) {
  tiles.get(key)?.item.remove();
  tiles.delete(key);
}

function forgetServer(name) {
  rows.get(name)?.section.remove();
  rows.delete(name);
}

async function drain(name) {
  const path = `api/servers/${encodeURIComponent(name)}`;
  if (model.servers[name].drained) {
    await confirmed({ heading: `Bring ${name} back?`, text: model.servers[name].has_gpus ? "Its healthy GPUs are given out again." : "It gets sessions again.", yes: "Bring back", path: `${path}/undrain` });
    return;
  }
  const { sessions } = model.servers[name];
  await confirmed({
    heading: `Drain ${name}?`,
    text: `It gets no new sessions. ${sessions ? `The ${sessions} that run there go on.` : "None run there now."}`,
    label: "Reason, for others to read",
    field: "reason",
    yes: "Drain",
    path: `${path}/drain`,
  });
}

connect({ whole, change, me: () => {} });
setInterval(() => model && showLine(model.line, may.line, serverNow()), 30_000);
