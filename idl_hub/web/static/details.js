// One GPU in full, with what may be done about it.

import { clock, find, say } from "./live.js";
import { degrees, draw, memory, percent, plotWords } from "./figures.js";
import { confirmed } from "./confirm.js";

let shown = null;

export function openDetails(key, model, may) {
  shown = key;
  refreshDetails(model);
  const gpu = model.gpus[key];
  const actions = find("details-actions");
  actions.replaceChildren(...actionsFor(gpu, may).map((action) => button(action, () => {
    find("details").close();
    confirmed(action);
  })));
  find("details").showModal();
}

export function refreshDetails(model) {
  const gpu = model.gpus[shown];
  if (!gpu) return;
  say(find("details-heading"), `GPU ${gpu.index} of ${gpu.server}`);
  const reason = find("details-reason");
  reason.hidden = gpu.state === "free";
  say(reason, gpu.reason);
  const points = gpu.utilization_percent_by_minute;
  draw(find("details").querySelector("svg"), points);
  say(find("details-plot-words"), plotWords(points));
  const values = {
    State: gpu.state === "closed" ? "out of service" : gpu.state,
    Holder: gpu.holder ? `${gpu.holder}, since ${clock(gpu.since)} (${gpu.phase})` : "nobody",
    Load: percent(gpu.utilization_ratio),
    Memory: memory(gpu),
    Temperature: degrees(gpu.temperature_celsius),
    Card: gpu.name ?? "unknown",
    UUID: gpu.uuid ?? "never told",
  };
  const list = find("details-values");
  if (!list.children.length) {
    for (const name of Object.keys(values)) {
      const group = document.createElement("div");
      group.append(Object.assign(document.createElement("dt"), { textContent: name }), document.createElement("dd"));
      list.append(group);
    }
  }
  Object.values(values).forEach((value, number) => say(list.children[number].querySelector("dd"), value));
}

function actionsFor(gpu, may) {
  const name = `GPU ${gpu.index} of ${gpu.server}`;
  const actions = [];
  if (may.sessions && gpu.lease_id) {
    actions.push({
      act: "End the session …",
      heading: `End the session of ${gpu.holder}?`,
      text: "Their server is stopped and the GPU is free again. Files stay; what runs now is lost.",
      label: `Message for ${gpu.holder}`,
      field: "message",
      yes: "End the session",
      path: `api/sessions/${gpu.lease_id}/end`,
    });
  }
  if (!may.fleet || !gpu.uuid) return actions;
  const path = `api/gpus/${encodeURIComponent(gpu.uuid)}`;
  if (gpu.orphan) {
    actions.push({
      act: "End what runs there …",
      heading: `End what runs on ${name}?`,
      text: `No session of the hub explains it: ${gpu.reason}. The container is removed.`,
      yes: "End it",
      path: `${path}/end-orphan`,
    });
  }
  if (gpu.excluded) {
    actions.push({ act: "Bring back …", heading: `Bring ${name} back?`, text: "It is given out again when it is healthy.", yes: "Bring back", path: `${path}/include` });
  } else {
    actions.push({
      act: "Exclude …",
      heading: `Exclude ${name}?`,
      text: `It is not given out again until somebody brings it back. ${gpu.holder ? `The session of ${gpu.holder} goes on.` : ""}`,
      label: "Reason, for others to read",
      field: "reason",
      yes: "Exclude",
      path: `${path}/exclude`,
    });
  }
  return actions;
}

function button(action, onclick) {
  const made = Object.assign(document.createElement("button"), { type: "button", className: "btn btn-quiet", textContent: action.act, onclick });
  return made;
}

find("details").addEventListener("close", () => (shown = null));
