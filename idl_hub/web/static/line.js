// A student's place in the line: what to expect, and what can be done.

import { clock, connect, find, hub, post, say, serverNow, tell, user } from "./live.js";
import { duration } from "./figures.js";

const base = hub.replace(/hub\/$/, "");
const TITLE = "Waiting line - idl_hub";
let me = null;
let announced = null;

const serverPath = (name) => [user, name].filter(Boolean).map(encodeURIComponent).join("/");

/** What each state shows: heading, words, note, and which buttons. */
const VIEWS = {
  waiting: ({ ticket }) => ({
    heading: "You are in the line",
    place: `Number ${ticket.position} of ${ticket.of}`,
    words: expected(ticket),
    note: "Your place stays when you close this page. When a GPU comes free, your server starts by itself.",
    buttons: ["without", "leave"],
  }),
  offered: () => ({
    heading: "A GPU is yours",
    words: "Your server is starting. This takes some seconds.",
    buttons: ["leave"],
  }),
  ready: ({ ticket }) => ({
    heading: "Your GPU is ready",
    words: "Open JupyterLab in time, or the GPU goes to the next in line.",
    countdown: ticket.deadline,
    buttons: ["open", "leave"],
  }),
  running: ({ session }) => ({
    heading: "Your server is running",
    words: session.gpus.length
      ? `You have GPU ${session.gpus.map((gpu) => gpu.index).join(", ")} of ${session.server}.`
      : "It runs without a GPU.",
    buttons: ["open"],
  }),
  expired: ({ last_ticket: ended }) => ({
    heading: "The GPU went to the next in line",
    words: `Your server was ready, but nobody opened it in time; it was given up at ${clock(ended.ended_at)}.`,
    note: "Your files are safe. Start again to get a new place.",
    buttons: ["start"],
  }),
  failed: ({ last_ticket: ended }) => ({
    heading: "Your server could not be started",
    words: `A GPU was there for you, but ${ended.ending || "the server did not start"}.`,
    note: "Your files are safe. Start again; if it happens again, tell the course's admins.",
    buttons: ["start"],
  }),
  left: () => ({ heading: "You have left the line", words: "Start your server when you like.", buttons: ["start"] }),
  none: () => ({ heading: "You are not in the line", words: "Start your server to get a GPU, or a place in the line.", buttons: ["start"] }),
};

function expected(ticket) {
  if (ticket.expected_at === null) return `When it is your turn is ${ticket.expected_text}.`;
  return `Your turn is expected at ${clock(ticket.expected_at)} (${ticket.expected_text}).`;
}

function stateOf({ ticket, session, last_ticket: ended }) {
  if (ticket) return ticket.state;
  if (session) return "running";
  return ended && VIEWS[ended.state] ? ended.state : "none";
}

function show(news) {
  me = news;
  const state = stateOf(me);
  const view = VIEWS[state](me);
  find("card").dataset.state = state;
  say(find("heading"), view.heading);
  for (const part of ["place", "words", "note"]) {
    find(part).hidden = !view[part];
    say(find(part), view[part] ?? "");
  }
  for (const name of ["open", "start", "without", "leave"]) find(name).hidden = !view.buttons.includes(name);
  find("open").href = `${base}user/${serverPath((me.ticket ?? me.session)?.server_name)}/lab`;
  find("countdown").hidden = !view.countdown;
  find("call").hidden = state !== "waiting" || !("Notification" in window) || Notification.permission !== "default";
  const others = find("others");
  others.hidden = state !== "waiting";
  say(others, me.ticket ? `In the line for ${duration(serverNow() - me.ticket.since)}.` : "");
  announce(state, view);
  tick();
}

/** Say it where a person looks who is not looking here: the window's title and a notification. */
function announce(state, view) {
  const titles = { ready: "● Your GPU is ready - idl_hub", offered: "A GPU is yours - idl_hub" };
  const waiting = state === "waiting" ? `${me.ticket.position} of ${me.ticket.of} - ${TITLE}` : TITLE;
  document.title = titles[state] ?? waiting;
  const one = state === "ready" ? me.ticket.id : null;
  if (one && one !== announced && "Notification" in window && Notification.permission === "granted") {
    const notice = new Notification(view.heading, { body: "Open JupyterLab in time, or the GPU goes to the next in line.", tag: one });
    notice.onclick = () => { window.focus(); notice.close(); };
  }
  announced = one;
}

function tick() {
  if (!me?.ticket?.deadline) return;
  const left = Math.max(0, Math.round(me.ticket.deadline - serverNow()));
  say(find("countdown"), `${Math.floor(left / 60)}:${String(left % 60).padStart(2, "0")}`);
}

async function leave(button, then) {
  const buttons = [find("leave"), find("without")];
  for (const one of buttons) one.disabled = true;
  const before = button.textContent;
  button.textContent = "Leaving the line …";
  const { state, result } = await post("api/me/leave-line");
  for (const one of buttons) one.disabled = false;
  button.textContent = before;
  if (state === "done") then();
  else tell(result, true);
}

find("leave").addEventListener("click", ({ target }) => leave(target, () => tell("You have left the line.")));
find("without").addEventListener("click", ({ target }) => {
  const start = `${hub}spawn/${serverPath(me.ticket.server_name)}?opt-gpu=none`;
  leave(target, () => window.location.assign(start));
});
find("allow").addEventListener("click", async () => {
  await Notification.requestPermission();
  if (me) show(me);
});
setInterval(tick, 1000);
connect({ me: show });
