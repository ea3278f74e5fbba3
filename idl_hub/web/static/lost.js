// When the machine of somebody's server does not answer: what that means, and what can be done.

import { clock, connect, find, hub, post, say, user } from "./live.js";

const base = hub.replace(/hub\/$/, "");
let silence = null;

/** What each stage shows: heading, words, and what can be done. */
const VIEWS = {
  wait: ({ server, since, offered_at: at }) => ({
    heading: `${server} does not answer`,
    words: `${server}, where your server runs, ${ago(since)}. Mostly this is over in a minute, and nothing is lost: what `
      + `runs there goes on. Your saved files are safe. If it still does not answer at ${clock(at)}, you can start elsewhere here.`,
    open: true,
  }),
  lost: ({ server, since, can_cut: cut }) => ({
    heading: `${server} does not answer`,
    words: `${server}, where your server runs, ${ago(since)}. Your saved files are safe.`,
    choice: cut ? "cut" : "risk",
    open: true,
  }),
  uncut: ({ server, since }) => ({
    heading: `${server} does not answer`,
    words: `${server}, where your server runs, ${ago(since)}. Your saved files are safe. ${server} was to be cut off from `
      + "your files, but that did not work; the course's admins can see why.",
    choice: "risk",
    open: true,
  }),
  cutting: ({ server }) => ({
    heading: "Your start elsewhere",
    words: `${server} is being cut off from your files. This can take half a minute; then your new server starts by itself.`,
  }),
  letting_go: () => ({ heading: "Your start elsewhere", words: "Your old server is given up. Your new one starts in a moment." }),
  free: () => ({ heading: "Your start elsewhere", words: "Your new server starts." }),
};

const ago = (since) => (since ? `has not answered since ${clock(since)}` : "is not one of the course's servers any more");
const serverPath = (name) => [user, name].filter(Boolean).map(encodeURIComponent).join("/");

function show(me) {
  const before = silence?.stage;
  silence = me.silence;
  const path = serverPath((silence ?? me.session)?.server_name);
  if (silence?.stage === "free" && before && before !== "free") {
    // With as many GPUs as before; the start's own pages go on from here.
    const gpu = { 0: "none", 1: "one" }[silence.gpus] ?? silence.gpus;
    window.location.assign(`${hub}spawn/${path}?opt-gpu=${gpu}`);
  }
  const view = silence ? VIEWS[silence.stage](silence) : answering(me);
  find("card").dataset.stage = silence?.stage ?? "answers";
  document.title = `${view.heading} - idl_hub`;
  say(find("heading"), view.heading);
  say(find("words"), view.words);
  for (const name of document.querySelectorAll(".server")) say(name, silence?.server ?? "");
  find("choice").hidden = !view.choice;
  find("danger").hidden = view.choice !== "risk";
  find("cut").hidden = view.choice !== "cut";
  say(find("cut"), `Before, ${silence?.server} is cut off from your files, so that nothing there can change them any more.`);
  const again = silence?.stage === "free";
  find("elsewhere").hidden = !view.choice && !again;
  say(find("elsewhere"), again ? "Start my server" : "Start elsewhere");
  find("elsewhere").disabled = view.choice === "risk" && !find("risk").checked;
  find("open").hidden = !view.open;
  find("open").href = `${base}user/${path}/lab`;
  if (!view.choice) find("refused").hidden = true;
}

function answering({ session }) {
  if (!session) return { heading: "Your server is not running", words: "Your files are safe. You can start it from Home." };
  return {
    heading: "Your server",
    words: `${session.server}, where your server runs, answers the hub. If your server did not answer you just now, try again.`,
    open: true,
  };
}

find("risk").addEventListener("change", ({ target }) => (find("elsewhere").disabled = !target.checked));
find("elsewhere").addEventListener("click", async ({ target }) => {
  if (silence.stage === "free") {
    window.location.assign(`${hub}spawn/${serverPath(silence.server_name)}`);
    return;
  }
  target.disabled = true;
  const name = silence.server_name ? `?server_name=${encodeURIComponent(silence.server_name)}` : "";
  const { state, result } = await post(`api/me/elsewhere${name}`, { risk: !find("danger").hidden && find("risk").checked });
  target.disabled = false;
  find("refused").hidden = state === "done";
  say(find("refused"), result);
});
connect({ me: show });
