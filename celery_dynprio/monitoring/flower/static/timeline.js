// Two lanes of tasks by the time at which they start, now and under the policy that is tried, and a moment to scrub.

import { byId, make, setText } from "./dom.js";
import { count, orNothing, seconds } from "./format.js";

const SVG = "http://www.w3.org/2000/svg";
const KINDS = 6; // names that have a row and a colour of their own; the rest share the last one
const WIDTH = 1000;
const ROW = 18;
const NEXT = 5; // tasks told of that start next
const STEPS = 1000; // of the slider
const DURATION = 12_000; // milliseconds that a whole play takes
const PACE = 100; // milliseconds between two steps of it
const CALM = 1000; // the same where motion is to be reduced

const LANES = [
  ["now", "The policy in force"],
  ["then", "The one that is tried"],
];

let shown = null; // { paths, end, lanes }
let timer = 0;

export function showTimeline(found) {
  stopTimeline();
  const paths = found.paths;
  const end = Math.max(...paths.flatMap((path) => [path.now.high, path.then.high]), 1);
  const kinds = kindsOf(paths);
  shown = { end, lanes: LANES.map(([side, title]) => makeLane(paths, side, title, kinds, end)) };
  byId("dp-try-lanes").replaceChildren(...shown.lanes.map((lane) => lane.node));
  byId("dp-try-legend").replaceChildren(...legend(kinds));
  setText(byId("dp-try-end"), seconds(end));
  byId("dp-try-slider").value = "0";
  move(0);
}

export function stopTimeline() {
  clearInterval(timer);
  timer = 0;
  setText(byId("dp-try-play"), "Play");
}

export function watchTimeline() {
  byId("dp-try-play").addEventListener("click", () => (timer ? stopTimeline() : play()));
  byId("dp-try-slider").addEventListener("input", (event) => {
    stopTimeline();
    move(Number(event.target.value));
  });
}

function play() {
  const slider = byId("dp-try-slider");
  const pace = window.matchMedia("(prefers-reduced-motion: reduce)").matches ? CALM : PACE;
  if (Number(slider.value) >= STEPS) {
    slider.value = "0";
  }
  setText(byId("dp-try-play"), "Pause");
  timer = setInterval(() => {
    slider.value = String(Math.min(Number(slider.value) + (STEPS * pace) / DURATION, STEPS));
    move(Number(slider.value));
    if (Number(slider.value) >= STEPS) {
      stopTimeline();
    }
  }, pace);
}

// The names with the most tasks, each with the number of its row and colour.
function kindsOf(paths) {
  const counts = new Map();
  for (const path of paths) {
    counts.set(path.task, (counts.get(path.task) ?? 0) + 1);
  }
  const names = [...counts.keys()].toSorted((one, other) => counts.get(other) - counts.get(one) || (one < other ? -1 : 1));
  const own = names.length > KINDS ? KINDS - 1 : KINDS;
  return new Map(names.map((name, index) => [name, Math.min(index, own)]));
}

function legend(kinds) {
  const rows = new Map();
  for (const [name, row] of kinds) {
    rows.set(row, rows.has(row) ? "others" : name);
  }
  return [...rows].map(([row, name]) => make("li", {}, make("span", { class: `dp-swatch dp-kind-${row}`, "aria-hidden": "true" }), name));
}

function draw(tag, attributes, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) {
    made.setAttribute(name, String(value));
  }
  made.append(...children);
  return made;
}

function makeLane(paths, side, title, kinds, end) {
  const rows = Math.max(...kinds.values()) + 1;
  const height = rows * ROW;
  const x = (at) => (Math.min(at / end, 1) * (WIDTH - 8) + 4).toFixed(1);
  const ordered = paths.toSorted((one, other) => one[side].median - other[side].median);
  const marks = ordered.map((path) => {
    const y = kinds.get(path.task) * ROW + ROW / 2;
    const { low, median, high } = path[side];
    return draw(
      "g",
      { class: `dp-mark dp-kind-${kinds.get(path.task)}` },
      draw("path", { class: "dp-spread", d: `M${x(low)} ${y}H${x(high)}` }),
      draw("circle", { cx: x(median), cy: y, r: 4 }),
    );
  });
  const head = draw("path", { class: "dp-playhead", d: "" });
  const lane = draw("svg", { viewBox: `0 0 ${WIDTH} ${height}`, preserveAspectRatio: "none", class: "dp-lane", "aria-hidden": "true" }, ...marks, head);
  const started = make("span", { class: "dp-number" });
  const next = make("ol", { class: "dp-next" });
  const heading = make("h3", { class: "dp-lane-title" }, title, " ", started);
  const node = make("div", { "data-lane": side }, heading, lane, make("p", { class: "dp-next-title" }, "Next to start"), next);
  return { node, marks, head, started, next, ordered, side, height, x };
}

function move(step) {
  const at = (step / STEPS) * shown.end;
  for (const lane of shown.lanes) {
    const begun = lane.ordered.findIndex((path) => path[lane.side].median > at);
    const starts = begun < 0 ? lane.ordered.length : begun;
    lane.marks.forEach((mark, index) => mark.classList.toggle("dp-begun", index < starts));
    lane.head.setAttribute("d", `M${lane.x(at)} 0V${lane.height}`);
    setText(lane.started, `${count(starts)} of ${count(lane.ordered.length)} have started`);
    const names = lane.ordered.slice(starts, starts + NEXT).map((path) => `${path.task}, ${orNothing(path.key)}, in ${seconds(path[lane.side].median)}`);
    lane.next.replaceChildren(...names.map((name) => make("li", {}, name)));
  }
  const [own, tried] = shown.lanes.map((lane) => lane.started.textContent);
  setText(byId("dp-try-at"), seconds(at));
  byId("dp-try-slider").setAttribute("aria-valuetext", `In ${seconds(at)}: ${own} with the policy in force, ${tried} with the one that is tried`);
}
