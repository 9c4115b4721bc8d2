// Depth and oldest wait by level: a chart that is a table, for those who cannot see its bars.

import { make, makeBar, place, setBar, setText } from "./dom.js";
import { count, seconds } from "./format.js";

const charts = new Map();

export function showLevels(parent, queues) {
  const several = queues.length > 1;
  place(parent, queues.map((queue) => showQueue(queue, several)));
}

function showQueue(queue, several) {
  const places = [
    ...queue.depths.map((depth, level) => ({ name: `P${level}`, depth, oldest: queue.oldest[level] })),
    { name: "parked", depth: queue.overflow, oldest: null },
    { name: "held", depth: queue.held, oldest: null },
  ];
  const key = `${queue.queue} ${places.length}`;
  if (!charts.has(key)) {
    charts.set(key, makeChart(places));
  }
  const chart = charts.get(key);
  setText(chart.caption, `${several ? `${queue.queue}: ` : ""}${told(queue)}`);
  const most = Math.max(1, ...places.map((each) => each.depth));
  const longest = Math.max(1, ...places.map((each) => each.oldest || 0));
  places.forEach((each, index) => fill(chart.rows[index], each, most, longest));
  return chart.table;
}

function told(queue) {
  const parts = [`${count(queue.moves)} moves so far`];
  if (!queue.led) {
    parts.push("no reprioritizer runs");
  }
  if (queue.foreign) {
    parts.push(`${count(queue.foreign)} messages left alone`);
  }
  return parts.join(", ");
}

function makeChart(places) {
  const caption = make("caption", { class: "dp-caption" });
  const head = make("tr", {}, ...["Level", "Waiting", "Oldest"].map((title) => make("th", { scope: "col" }, title)));
  const rows = places.map((each) => makeRow(each.name));
  const body = make("tbody", {}, ...rows.map((row) => row.line));
  const table = make("table", { class: "dp-levels" }, caption, make("thead", {}, head), body);
  return { table, caption, rows };
}

function makeRow(name) {
  const depth = makeCell("");
  const oldest = makeCell("dp-bar-wait");
  const line = make("tr", {}, make("th", { scope: "row" }, name), depth.cell, oldest.cell);
  return { line, depth, oldest };
}

function makeCell(kind) {
  const bar = makeBar(kind);
  const number = make("span", { class: "dp-number" });
  return { cell: make("td", {}, make("div", { class: "dp-measure" }, bar, number)), bar, number };
}

function fill(row, each, most, longest) {
  row.line.classList.toggle("dp-empty", each.depth === 0);
  setBar(row.depth.bar, each.depth / most);
  setText(row.depth.number, count(each.depth));
  setBar(row.oldest.bar, (each.oldest || 0) / longest);
  setText(row.oldest.number, seconds(each.oldest));
}
