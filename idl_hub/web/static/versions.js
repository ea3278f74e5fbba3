// Earlier versions of one's home: choose a time, see what is gone, bring it back.

import { find, post, prefix, say, tell } from "./live.js";

const { xsrf } = document.body.dataset;
const NEWS_MS = 60_000;
const STATES = { gone: "gone", changed: "changed since", same: "unchanged", there: "" };
let versions = [];
let view = "differences";
let folder = { path: "", shown: [] };
let asked = 0; // the newest question; answers to older ones come too late

const now = () => Date.now() / 1000;

async function ask(path) {
  const answer = await fetch(prefix + path, { headers: { "X-XSRFToken": xsrf }, cache: "no-store" }).catch(() => null);
  if (!answer) return { trouble: "There is no connection. Try again." };
  const told = await answer.json().catch(() => ({}));
  return answer.ok ? told : { trouble: told.message || `It did not work (${answer.status}). Try again.` };
}

function ago(seconds) {
  const minutes = Math.max(0, Math.round((now() - seconds) / 60));
  if (minutes < 1) return "less than a minute ago";
  if (minutes < 60) return `${minutes} minute${minutes === 1 ? "" : "s"} ago`;
  const hours = Math.round(minutes / 60);
  if (hours < 48) return `${hours} hour${hours === 1 ? "" : "s"} ago`;
  return `${Math.round(hours / 24)} days ago`;
}

function size(bytes) {
  if (bytes < 1000) return `${bytes} bytes`;
  const units = ["kB", "MB", "GB", "TB"];
  let number = bytes / 1000;
  let unit = 0;
  while (number >= 1000 && unit < units.length - 1) { number /= 1000; unit += 1; }
  return `${number < 10 ? number.toFixed(1) : Math.round(number)} ${units[unit]}`;
}

const inSentence = (when) => when?.replace(/^(Today|Yesterday)/, (day) => day.toLowerCase());
const chosen = () => versions.find(({ name }) => name === find("version").value);
const address = (rest) => `api/versions/${encodeURIComponent(find("version").value)}/${rest}`;

/** Fill the list of times, keeping the one that is chosen. */
async function loadTimes() {
  const news = await ask("api/versions");
  if (news.trouble) {
    say(find("late"), news.trouble);
    find("late").hidden = false;
    return;
  }
  const select = find("version");
  const before = select.value;
  versions = news.versions;
  select.replaceChildren(...versions.map(({ name, words, taken_at: at }) => new Option(`${words} (${ago(at)})`, name)));
  if (versions.some(({ name }) => name === before)) select.value = before;
  find("chooser").hidden = find("note").hidden = versions.length === 0;
  showState(news);
  if (versions.length && select.value !== before) await loadEntries();
  showOrder();
}

function showState({ late, checked, next }) {
  const known = versions.length > 0;
  find("late").hidden = !late;
  if (late) {
    const since = checked ? `The last one was made ${inSentence(checked)}` : "None was ever made";
    say(find("late"), `Copies of homes should be made every hour. ${since}. Tell the course's admins; what is listed here can be used.`);
  }
  const calm = known
    ? `Your home is copied every hour when something in it has changed. Last looked at ${inSentence(checked)}.`
    : `No earlier versions yet; the next copy is made at ${next}.`;
  say(find("state"), late ? (known ? "" : "There are no earlier versions of your home yet.") : calm);
}

function showOrder() {
  const index = find("version").selectedIndex;
  find("older").disabled = index >= versions.length - 1;
  find("newer").disabled = index <= 0;
}

async function loadEntries() {
  const number = ++asked;
  const list = find("entries");
  list.setAttribute("aria-busy", "true");
  const hidden = find("hidden-files").checked;
  const found = await ask(address(view === "files" ? `folder?path=${folder.path}` : `differences${hidden ? "?hidden=1" : ""}`));
  if (number !== asked) return;
  list.removeAttribute("aria-busy");
  showWay();
  showAll([]);
  if (found.trouble) {
    list.replaceChildren();
    say(find("words"), found.trouble);
    return;
  }
  const entries = found.entries.filter(({ name }) => hidden || !name.startsWith("."));
  list.replaceChildren(...entries.map(element));
  say(find("words"), words(entries.length, found.complete));
  showAll(entries);
}

function words(count, complete) {
  const { words: when } = chosen() ?? { words: "" };
  if (!complete) return `These are the first ${count}; there are more.`;
  if (view === "files") return count ? "" : "This folder was empty.";
  if (!count) return `Nothing that you had (${inSentence(when)}) is gone or changed. Look at an older version, or at all files.`;
  return `${count === 1 ? "One thing is" : `${count} things are`} gone or changed since.`;
}

/** The folders on the way to the one that is shown; each leads back. */
function showWay() {
  const way = find("way");
  way.hidden = view !== "files";
  const steps = [{ path: "", name: "Home" }, ...folder.shown];
  way.replaceChildren(...steps.map(({ path, name }, depth) => {
    const here = depth === steps.length - 1;
    const step = document.createElement(here ? "span" : "button");
    step.textContent = name;
    if (here) step.setAttribute("aria-current", "location");
    else {
      step.type = "button";
      step.addEventListener("click", () => open({ path, shown: folder.shown.slice(0, depth) }));
    }
    return step;
  }));
}

function open(place) {
  folder = place;
  loadEntries();
}

function element(entry) {
  const item = find("entry-template").content.firstElementChild.cloneNode(true);
  const isFolder = entry.kind === "folder";
  item.dataset.now = entry.now;
  item.dataset.kind = entry.kind;
  showName(item.querySelector(".name"), entry, isFolder);
  const facts = [STATES[entry.now], isFolder ? "folder" : entry.kind === "link" ? "link" : size(entry.size_bytes)];
  if (entry.kind === "file") facts.push(`edited ${inSentence(entry.modified)}`);
  item.querySelector(".facts").textContent = facts.filter(Boolean).join(" · ");
  const label = [entry.folder, entry.name].filter(Boolean).join("/");
  const download = item.querySelector(".download");
  if (entry.kind === "file") {
    download.href = `${prefix}${address(`file?path=${entry.path}`)}`;
    download.setAttribute("aria-label", `Download ${label}`);
  } else download.remove();
  const restore = item.querySelector(".restore");
  restore.setAttribute("aria-label", `Bring back ${label}`);
  if (entry.now === "there") restore.classList.replace("btn-main", "btn-quiet");
  if (entry.now === "same") restore.remove();
  else restore.addEventListener("click", () => bringBack(restore, entry));
  return item;
}

function showName(place, entry, isFolder) {
  if (view !== "files" || !isFolder) {
    if (view !== "files" && entry.folder) {
      const where = document.createElement("span");
      where.className = "idl-muted";
      where.textContent = `${entry.folder}/`;
      place.append(where);
    }
    place.append(entry.name);
    return;
  }
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = entry.name;
  const shown = [...folder.shown, { path: entry.path, name: entry.name }];
  button.addEventListener("click", () => open({ path: entry.path, shown }));
  place.append(button);
}

async function bringBack(button, entry) {
  const before = button.textContent;
  button.disabled = true;
  button.textContent = "Bringing back …";
  const { state, result } = await post(address(`restore?path=${entry.path}`));
  tell(result, state !== "done");
  button.disabled = false;
  button.textContent = before;
  if (state !== "done") return;
  await loadEntries();
  find("words").focus();
}

/** Offer to bring back at once what is gone, where that is more than one thing. */
function showAll(entries) {
  const gone = view === "differences" ? entries.filter(({ now: state }) => state === "gone") : [];
  const button = find("all-back");
  find("all").hidden = gone.length < 2;
  button.textContent = `Bring back all ${gone.length} that are gone`;
  button.onclick = () => allBack(button, gone);
}

async function allBack(button, gone) {
  button.disabled = true;
  let trouble;
  let done = 0;
  for (const { path } of gone) {
    button.textContent = `Bringing back ${done + 1} of ${gone.length} …`;
    const { state, result } = await post(address(`restore?path=${path}`));
    if (state !== "done") { trouble = result; break; }
    done += 1;
  }
  button.disabled = false;
  tell(trouble ? `${done} of ${gone.length} are back. ${trouble}` : `All ${done} are back.`, Boolean(trouble));
  await loadEntries();
  find("words").focus();
}

function show(what) {
  view = what;
  for (const name of ["differences", "files"]) find(`view-${name}`).setAttribute("aria-pressed", String(name === what));
  open({ path: "", shown: [] });
}

function step(by) {
  find("version").selectedIndex += by;
  find("version").dispatchEvent(new Event("change"));
}

find("version").addEventListener("change", () => { showOrder(); open({ path: "", shown: [] }); });
find("older").addEventListener("click", () => step(1));
find("newer").addEventListener("click", () => step(-1));
find("view-differences").addEventListener("click", () => show("differences"));
find("view-files").addEventListener("click", () => show("files"));
find("hidden-files").addEventListener("change", loadEntries);
find("words").tabIndex = -1;
loadTimes();
setInterval(() => { if (!document.hidden) loadTimes(); }, NEWS_MS);
