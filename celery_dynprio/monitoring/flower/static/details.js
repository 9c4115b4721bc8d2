// One task: why it is where it is, and the tree of its trace.

import { readTask } from "./api.js";
import { byId, make } from "./dom.js";
import { clock, count, orNothing, score, seconds } from "./format.js";
import { borrowFocus } from "./table.js";
import { factorTable } from "./tip.js";

let wanted = "";

export async function showTask(id) {
  wanted = id;
  const body = byId("dp-about-body");
  byId("dp-about-title").textContent = id;
  body.replaceChildren(make("p", {}, "Reading…"));
  borrowFocus(byId("dp-about"), "hidden.bs.offcanvas");
  window.bootstrap.Offcanvas.getOrCreateInstance(byId("dp-about")).show();
  let parts;
  try {
    parts = partsOf(await readTask(id));
  } catch (error) {
    parts = [make("p", { role: "alert" }, error.message)];
  }
  if (wanted === id) {
    body.replaceChildren(...parts);
  }
}

function partsOf(found) {
  const told = found.explanation;
  const parts = told ? explanationParts(told) : [make("p", {}, `Not pending: ${found.state}.`)];
  parts.push(section("Trace", ...traceParts(found.trace)));
  if (found.in_flower) {
    const link = byId("dynprio").dataset.task.replace("TASK", encodeURIComponent(found.id));
    parts.push(make("p", {}, make("a", { href: link }, "This task in Flower")));
  }
  return parts;
}

function section(title, ...children) {
  return make("section", {}, make("h3", {}, title), ...children);
}

function list(items) {
  return make("ul", {}, ...items.map((item) => make("li", {}, item)));
}

function explanationParts(told) {
  const facts = [
    ["Task", told.task],
    ["Place", told.place + (told.position === null ? "" : `, number ${count(told.position)} in ${told.queue}`)],
    ["Waited", seconds(told.waited)],
    ["Deadline", told.deadline_in === null ? "none" : `in ${seconds(told.deadline_in)}`],
    ["Weight", String(told.weight)],
    ["Key", orNothing(told.key)],
    ["Expected start", startText(told.start_in)],
  ];
  if (told.fair_share) {
    const { used, running, ahead, share } = told.fair_share;
    facts.push(["Fair share", `used ${seconds(used)}, runs ${seconds(running)}, ${seconds(ahead)} before it; share ${Number(share.toPrecision(4))}`]);
  }
  if (told.held_back_for) {
    facts.splice(2, 0, ["Held back", `by objective ${told.held_back_for}`]);
  }
  const rows = facts.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]);
  const parts = [make("dl", { class: "dp-facts" }, ...rows)];
  const why = told.factors.length ? factorTable(told.factors, told.score) : pinnedText(told);
  parts.push(section("Score", why), section("Ahead of it", ...aheadParts(told)));
  if (told.moves.length) {
    const moves = told.moves.map((each) => `${clock(each.at)} ${each.source} to ${each.target}: ${each.reason}, score ${score(each.score)}`);
    parts.push(section("Moves", list(moves)));
  }
  if (told.operations.length) {
    const done = told.operations.map((each) => `${clock(each.at)} ${each.by}: ${each.op}, ${each.answer}${each.why ? ` (${each.why})` : ""}`);
    parts.push(section("Operators", list(done)));
  }
  return parts;
}

// The median, and where it is with a probability of 80 %.
function startText(start) {
  return start === null ? "unknown" : `in ${seconds(start.median)} (80 %: in ${seconds(start.low)} to ${seconds(start.high)})`;
}

function pinnedText(told) {
  return make("p", {}, told.pinned === null ? "The policy failed to score it." : `Pinned to P${told.pinned}: no policy moves it.`);
}

function aheadParts(told) {
  const places = Object.entries(told.ahead_by_place).map(([name, tasks]) => `${name} ${count(tasks)}`);
  if (!places.length) {
    return [make("p", {}, told.place === "held" ? "It is held." : "Nothing.")];
  }
  const nearest = told.ahead.map((each) => `${each.task} in ${each.place}: ${each.reason}`);
  return [make("p", {}, `${places.join(", ")}; the nearest of them:`), list(nearest)];
}

function traceParts(trace) {
  if (!trace) {
    return [make("p", {}, "No trace is kept. It appears seconds after a worker starts the task.")];
  }
  const parts = [make("p", { class: "dp-note" }, trace.trace_id), tree(trace.spans)];
  if (trace.dropped) {
    parts.push(make("p", {}, `${count(trace.dropped)} more had no room.`));
  }
  return parts;
}

// The spans come parents first, each with its depth.
function tree(spans) {
  const root = make("ul", { class: "dp-tree" });
  const open = [root];
  for (const span of spans) {
    const depth = Math.min(span.depth, open.length - 1, 20);
    open.length = depth + 1;
    const below = make("ul");
    const item = make("li", {}, make("span", { class: `badge text-bg-${colour(span.state)}` }, span.state), ` ${spanText(span)}`);
    if (span.error) {
      item.append(make("div", { class: "dp-error" }, span.error));
    }
    item.append(below);
    open[depth].append(item);
    open.push(below);
  }
  return root;
}

function colour(state) {
  return { SUCCESS: "success", FAILURE: "danger", STARTED: "primary" }[state] || "secondary";
}

function spanText(span) {
  const parts = [span.task_name];
  if (span.host) {
    parts.push(`on ${span.host}`);
  }
  if (span.level !== null) {
    parts.push(`P${span.level}`);
  }
  if (span.wait !== null) {
    parts.push(`waited ${span.wait.toFixed(3)} s`);
  }
  if (span.ran !== null) {
    parts.push(`ran ${span.ran.toFixed(3)} s`);
  }
  return parts.join(", ");
}
