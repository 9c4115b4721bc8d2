// How the objectives stand: nothing is shown where there are none.

import { byId, make, makeBar, place, setBar, setText } from "./dom.js";
import { count, seconds } from "./format.js";

const lines = new Map();

export function showObjectives(objectives, now) {
  byId("dp-objectives-card").hidden = objectives.length === 0;
  place(byId("dp-objectives"), objectives.map((each) => objectiveLine(each, now)));
}

function objectiveLine(each, now) {
  if (!lines.has(each.name)) {
    lines.set(each.name, newLine(each.name));
  }
  const { line, bar, texts } = lines.get(each.name);
  setBar(bar, each.attained ?? 0);
  setText(texts["In time"], each.attained === null ? "none started" : percent(each.attained));
  setText(texts.Target, `${percent(each.target)} within ${seconds(each.within)}`);
  setText(texts.Started, count(each.started));
  setText(texts.Overdue, count(each.overdue));
  setText(texts.State, state(each, now));
  line.classList.toggle("dp-breached", each.breached_since !== null);
  return line;
}

function newLine(name) {
  const bar = makeBar("dp-bar-use");
  const texts = { "In time": make("span", { class: "dp-number" }) };
  const share = make("td", { "data-title": "In time" }, make("div", { class: "dp-measure" }, bar, texts["In time"]));
  const cells = ["Target", "Started", "Overdue", "State"].map((title) => {
    texts[title] = make("td", { "data-title": title });
    return texts[title];
  });
  const line = make("tr", { "data-objective": name }, make("th", { scope: "row" }, name), share, ...cells);
  return { line, bar, texts };
}

function state(each, now) {
  if (each.breached_since === null) {
    return "met";
  }
  const held = each.expendable.length ? `, holding back ${each.expendable.join(", ")}` : "";
  return `breached for ${seconds(now - each.breached_since)}${held}`;
}

function percent(share) {
  return `${(share * 100).toFixed(1)} %`;
}
