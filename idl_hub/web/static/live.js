// The connection to idl-hub web: events as they come, and a plain word when they do not.

const body = document.body.dataset;
export const prefix = body.prefix;
export const hub = body.hub;
export const user = body.user;
const SILENT_MS = 15_000; // a beat comes every 5 s
const LONGEST_WAIT_MS = 30_000;
let ahead = 0; // how far the server's clock is ahead of this one, in ms

export const serverNow = () => (Date.now() + ahead) / 1000;
export const find = (id) => document.getElementById(id);

/** Set a text only where it differs: what stays the same is not painted, nor read out, again. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function clock(seconds) {
  return new Date(seconds * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
}

/** Ask idl-hub web to do something; return what came of it, in words. */
export async function post(path, values = {}) {
  const answer = await fetch(prefix + path, {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-XSRFToken": body.xsrf },
    body: JSON.stringify(values),
  }).catch(() => null);
  if (!answer) return { state: "refused", result: "There is no connection; nothing was changed. Try again." };
  const told = await answer.json().catch(() => ({}));
  if (!answer.ok) return { state: "refused", result: told.message || `It did not work (${answer.status}).` };
  return told;
}

let hiding;
/** Tell the person what came of it, for some seconds. */
export function tell(text, failed = false) {
  const told = find("told");
  told.hidden = false;
  told.classList.toggle("failed", failed);
  told.textContent = text;
  clearTimeout(hiding);
  hiding = setTimeout(() => (told.hidden = true), 10_000);
}

/** Keep a connection open; `handlers` maps an event's name to what is done with its data. */
export function connect(handlers) {
  const lost = find("lost");
  let failures = 0;
  let lostSince = null;
  let lastHeard = Date.now();
  let source;

  function open() {
    source = new EventSource(`${prefix}api/events?_xsrf=${encodeURIComponent(body.xsrf)}`);
    source.onerror = again;
    const known = { ...handlers, beat: ({ now }) => (ahead = now * 1000 - Date.now()), hello: () => {} };
    known.trouble = ({ since }) => showLost(
      `The hub's database does not answer since ${clock(since)}. What you see is from then; it goes on by itself.`,
    );
    for (const [name, handle] of Object.entries(known)) {
      source.addEventListener(name, ({ data }) => {
        lastHeard = Date.now();
        if (name !== "trouble" && name !== "beat" && name !== "hello") back();
        handle(JSON.parse(data));
      });
    }
  }

  function back() {
    failures = 0;
    lostSince = null;
    lost.hidden = true;
    document.body.classList.remove("idl-stale");
  }

  function showLost(text) {
    say(lost, text);
    lost.hidden = false;
    document.body.classList.add("idl-stale");
  }

  function again() {
    source.close();
    lostSince ??= lastHeard / 1000;
    const wait = Math.min(1000 * 2 ** failures++, LONGEST_WAIT_MS);
    showLost(`No connection since ${clock(lostSince)}. What you see is from then. Trying again …`);
    setTimeout(async () => {
      lastHeard = Date.now();
      if (await signedOut()) {
        say(lost, "You are signed out. Load this page again to sign in.");
      } else open();
    }, wait);
  }

  async function signedOut() {
    const answer = await fetch(`${prefix}api/me`, { headers: { "X-XSRFToken": body.xsrf } }).catch(() => null);
    return answer?.status === 403;
  }

  open();
  setInterval(() => {
    if (source.readyState !== EventSource.CLOSED && Date.now() - lastHeard > SILENT_MS) again();
  }, 1000);
}
