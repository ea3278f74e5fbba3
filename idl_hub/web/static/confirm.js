// Asks before anything is done, then does it and says what came of it.

import { find, post, tell } from "./live.js";

/**
 * Ask, and do it when the answer is yes.
 *
 * `label` and `field` name the text that goes along; without them none is asked for.
 */
export async function confirmed({ heading, text, label, field, yes, path }) {
  const dialog = find("confirm");
  find("confirm-heading").textContent = heading;
  find("confirm-text").textContent = text;
  find("confirm-yes").textContent = yes;
  find("confirm-label").textContent = label ?? "";
  find("confirm-label").hidden = find("confirm-words").hidden = !label;
  find("confirm-words").value = "";
  dialog.returnValue = "";
  dialog.showModal();
  (label ? find("confirm-words") : find("confirm-yes")).focus();
  await new Promise((done) => dialog.addEventListener("close", done, { once: true }));
  if (dialog.returnValue !== "yes") return false;
  const words = find("confirm-words").value.trim();
  const { state, result } = await post(path, field && words ? { [field]: words } : {});
  tell(result, state !== "done");
  return state === "done";
}
