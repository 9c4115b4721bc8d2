// Beside the table: who used how much, and what happened last.

import { make, makeBar, place, setBar, setText } from "./dom.js";
import { clock, count, score } from "./format.js";

const keys = new Map();
const entries = new Map();

export function showUse(parent, use, seconds) {
  const most = use.length ? use[0].seconds : 1;
  place(parent, use.map((each) => useLine(each, most, seconds)));
}

function useLine(each, most, seconds) {
  if (!keys.has(each.key)) {
    const bar = makeBar("dp-bar-use");
    const number = make("span", { class: "dp-number" });
    const name = make("th", { scope: "row" }, each.key || "(no key)");
    const line = make("tr", {}, name, make("td", {}, make("div", { class: "dp-measure" }, bar, number)));
    keys.set(each.key, { line, bar, number });
  }
  const { line, bar, number } = keys.get(each.key);
  setBar(bar, each.seconds / most);
  setText(number, `${each.seconds.toFixed(1)} s, ${Math.round((each.seconds / seconds) * 100)} %`);
  return line;
}

// Only of one kind, unless that is "".
export function showFeed(parent, feed, kind) {
  const shown = feed.filter((each) => !kind || each.kind === kind).map((each) => {
    const key = JSON.stringify(each);
    const line = entries.get(key) || feedLine(each);
    return [key, line];
  });
  entries.clear();
  shown.forEach(([key, line]) => entries.set(key, line));
  place(parent, [...entries.values()]);
}

function feedLine(each) {
  const [kind, colour, text] =
    each.kind === "move" ? ["move", "secondary", moveText(each)] : ["operator", "primary", operatorText(each)];
  return make(
    "li",
    { "data-kind": each.kind },
    make("time", {}, clock(each.at)),
    make("span", { class: `badge text-bg-${colour}` }, kind),
    make("span", { class: "dp-entry" }, text),
  );
}

function moveText(each) {
  const reason = each.reason === "score" ? "" : `${each.reason}, `;
  return `${each.name || each.uuid}: ${each.from} to ${each.to} (${reason}score ${score(each.score)})`;
}

function operatorText(each) {
  const what = each.task || each.id;
  const answer = each.answer === "done" ? "" : `: ${each.answer}`;
  return `${each.by}: ${each.op}${what ? ` ${what}` : ""}${answer}${each.why ? ` (${each.why})` : ""}`;
}

export function total(counts) {
  return count(counts.reduce((sum, each) => sum + each, 0));
}
