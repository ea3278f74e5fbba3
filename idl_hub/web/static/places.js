// The line as a table; rows stay while their ticket does.

import { clock, find, say, serverNow } from "./live.js";
import { duration } from "./figures.js";
import { confirmed } from "./confirm.js";

const rows = new Map();
const STATES = { waiting: "", offered: "starting", ready: "ready" };

export function showLine(line, mayMove) {
  find("line-empty").hidden = line.length > 0;
  find("line-scroll").hidden = line.length === 0;
  const live = new Set(line.map((place) => place.id));
  for (const [id, row] of rows) {
    if (live.has(id)) continue;
    row.remove();
    rows.delete(id);
  }
  const body = find("line");
  line.forEach((place, number) => {
    let row = rows.get(place.id);
    if (!row) {
      row = makeRow(place, mayMove);
      rows.set(place.id, row);
    }
    if (body.children[number] !== row) body.insertBefore(row, body.children[number] ?? null);
    fillRow(row, place);
  });
}

function makeRow(place, mayMove) {
  const row = document.createElement("tr");
  for (let cell = 0; cell < 4; cell += 1) row.append(document.createElement(cell === 1 ? "th" : "td"));
  row.children[1].scope = "row";
  if (mayMove) {
    const cell = document.createElement("td");
    const front = action("To the front", `Move ${place.user} to the front`, () => confirmed({
      heading: `Move ${place.user} to the front of the line?`,
      text: "Everybody else waits longer. It is recorded that you did it.",
      yes: "Move to the front",
      path: `api/line/${place.id}/front`,
    }));
    front.className += " front";
    cell.append(front, action("Remove", `Remove ${place.user} from the line`, () => confirmed({
      heading: `Remove ${place.user} from the line?`,
      text: "They can join again, at its end.",
      yes: "Remove",
      path: `api/line/${place.id}/leave`,
    })));
    row.append(cell);
  }
  return row;
}

function fillRow(row, place) {
  const waits = `${place.gpu_count} ${place.gpu_count === 1 ? "GPU" : "GPUs"}, for ${duration(serverNow() - place.since)}`;
  const expected = place.expected_at === null ? place.expected_text : `${clock(place.expected_at)}, ${place.expected_text}`;
  const holder = place.server_name ? `${place.user}:${place.server_name}` : place.user;
  [place.position ? String(place.position) : STATES[place.state], holder, waits, expected]
    .forEach((text, number) => say(row.children[number], text));
  const front = row.querySelector(".front");
  if (front) front.disabled = !place.position || place.position === 1;
}

function action(text, label, onclick) {
  const made = Object.assign(document.createElement("button"), { type: "button", className: "btn btn-sm btn-quiet", textContent: text, onclick });
  made.setAttribute("aria-label", label);
  return made;
}
