// The pending tasks. A row stays the same element as long as its task is shown, so that focus stays where it is.

import { byId, make, makeBar, place, setBar, setText } from "./dom.js";
import { orNothing, score, seconds } from "./format.js";

const lines = new Map(); // by queue and id

// The columns, as in `dynprio list`; what each shows of a row.
const TEXTS = {
  position: (row) => orNothing(row.position),
  place: (row) => row.place + (row.pinned === null || row.place === "held" ? "" : ", pinned"),
  waited: (row) => seconds(row.waited),
  deadline: (row) => seconds(row.deadline_in),
  key: (row) => orNothing(row.key),
  start: (row) => seconds(row.expected_in),
};
const ORDER = ["position", "place", "score", "waited", "deadline", "key", "start", "task"];
const TITLES = { position: "#" };

const BUTTONS = [
  { op: "bump", text: "Bump", says: "Make it the next to run", fits: () => true },
  { op: "hold", text: "Hold", says: "Keep it from running", fits: (row) => row.place !== "held" },
  { op: "release", text: "Release", says: "Let it run again", fits: (row) => row.place === "held" },
  { op: "set", text: "Set", says: "Set its weight, deadline or level", fits: () => true },
  { op: "cancel", text: "Cancel", says: "Remove it for good", fits: () => true },
];

export function rowOf(element) {
  return lines.get(element.closest("tr").dataset.line).row;
}

export function showRows(rows, several) {
  const focused = whereFocusIs();
  const kept = new Set();
  const shown = rows.map((row) => {
    const key = `${row.queue} ${row.id}`;
    kept.add(key);
    if (!lines.has(key)) {
      lines.set(key, makeLine(key, row));
    }
    fill(lines.get(key), row, several);
    return lines.get(key).line;
  });
  [...lines.keys()].filter((key) => !kept.has(key)).forEach((key) => lines.delete(key));
  place(byId("dp-rows"), shown);
  if (focused) {
    giveFocusBack(focused);
  }
}

function whereFocusIs() {
  const element = document.activeElement;
  const line = element.closest("#dp-rows > tr");
  return line && { element, line, index: [...line.parentElement.children].indexOf(line) };
}

// What opens over the page takes the focus; `closed` is the event that tells that it is away again.
export function borrowFocus(over, closed) {
  const focused = whereFocusIs();
  if (focused) {
    over.addEventListener(closed, () => giveFocusBack(focused), { once: true });
  }
}

// A button that is hidden, and a row that moves or goes, lose the focus: what took their place gets it.
function giveFocusBack({ element, line, index }) {
  let heir = element;
  if (!line.isConnected) {
    const shown = byId("dp-rows").children;
    const next = shown[Math.min(index, shown.length - 1)];
    heir = next ? next.querySelector(".dp-name") : byId("dp-search");
  } else if (element.hidden) {
    heir = line.querySelector(`[data-op="${element.dataset.op === "hold" ? "release" : "hold"}"]`);
  }
  heir.focus({ preventScroll: true });
}

function makeLine(key, row) {
  const cells = Object.fromEntries(ORDER.map((column) => [column, makeCell(column)]));
  const bar = makeBar();
  const number = make("span", { class: "dp-number" });
  const measure = make("span", { class: "dp-score-bar dp-measure", tabindex: "0", role: "group" }, number, bar);
  cells.score.append(measure);
  const name = make("button", { type: "button", class: "btn btn-link dp-name", "data-op": "about" }, row.task);
  const note = make("div", { class: "dp-note" });
  cells.task.append(name, note);
  const line = make("tr", { role: "row", "data-line": key, "data-id": row.id }, ...ORDER.map((column) => cells[column]));
  const buttons = byId("dynprio").dataset.mayAct ? makeButtons(row) : [];
  if (buttons.length) {
    const group = make("div", { class: "btn-group btn-group-sm dp-actions" }, ...buttons);
    line.append(make("td", { role: "cell", class: "dp-buttons" }, group));
  }
  return { line, cells, bar, number, measure, note, buttons, row };
}

function makeCell(column) {
  const title = TITLES[column] || column[0].toUpperCase() + column.slice(1);
  return make("td", { role: "cell", class: `dp-${column}`, "data-title": title });
}

function makeButtons(row) {
  return BUTTONS.map((button) =>
    make(
      "button",
      {
        type: "button",
        class: `btn btn-outline-${button.op === "cancel" ? "danger" : "secondary"}`,
        "data-op": button.op,
        title: button.says,
        "aria-label": `${button.text} ${row.task} ${row.id}`,
      },
      button.text,
    ),
  );
}

function fill(known, row, several) {
  known.row = row;
  for (const [column, text] of Object.entries(TEXTS)) {
    setText(known.cells[column], text(row));
  }
  known.cells.deadline.classList.toggle("dp-late", row.deadline_in !== null && row.deadline_in < 0);
  setText(known.number, score(row.score));
  setBar(known.bar, row.score);
  known.measure.setAttribute("aria-label", `Score ${score(row.score)}`);
  setText(known.note, several ? `${row.id} in ${row.queue}` : row.id);
  known.buttons.forEach((button, index) => {
    button.hidden = !BUTTONS[index].fits(row);
  });
}
