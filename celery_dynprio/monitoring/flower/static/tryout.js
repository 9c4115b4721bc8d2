// Try a policy: what waits now, played forward under the policy in force and under another one. Reads only.

import { readOutlook, readPolicy } from "./api.js";
import { byId, make, setText } from "./dom.js";
import { count, orNothing, seconds } from "./format.js";
import { showTimeline, stopTimeline } from "./timeline.js";

let asking = null; // what ends the request that is under way
let known = null; // the terms that the form was made from

export function watchTryout() {
  byId("dp-try").addEventListener("toggle", () => {
    if (byId("dp-try").open && !known) {
      prepare();
    } else if (!byId("dp-try").open) {
      cancel();
      stopTimeline();
    }
  });
  byId("dp-try-form").addEventListener("submit", (event) => {
    event.preventDefault();
    play();
  });
  window.addEventListener("pagehide", cancel);
}

function cancel() {
  asking?.abort();
  asking = null;
}

async function prepare() {
  try {
    known = await readPolicy();
    byId("dp-try-terms").replaceChildren(...known.terms.map(makeTerm));
    byId("dp-try-queue").replaceChildren(...known.queues.map((name) => make("option", { value: name }, name)));
    byId("dp-try-queues").hidden = known.queues.length < 2;
    byId("dp-try-submit").disabled = false;
    say("");
  } catch (error) {
    say(error.message);
  }
}

function makeTerm(term, index) {
  const fields = [makeNumber(`dp-term-${index}`, `Weight of ${term.factor}`, term.weight, 0)];
  for (const [name, value] of Object.entries(term.parameters ?? {})) {
    fields.push(makeNumber(`dp-term-${index}-${name}`, name, value, Number.MIN_VALUE));
  }
  const legend = make("legend", { class: "dp-term-name" }, term.factor);
  return make("fieldset", { class: "dp-term", "data-index": String(index) }, legend, ...fields);
}

function makeNumber(id, label, value, least) {
  const input = make("input", { id, type: "number", min: String(least), step: "any", class: "form-control form-control-sm", required: "", autocomplete: "off" });
  input.value = String(value);
  const shown = label.startsWith("Weight of ") ? ["Weight", make("span", { class: "visually-hidden" }, label.slice("Weight".length))] : [label];
  return make("div", {}, make("label", { for: id, class: "form-label" }, ...shown), input);
}

// What the server reads: numbers, and factors that it knows. A term that was not touched is the one in force as it is.
function terms() {
  return known.terms
    .map((term, index) => {
      const weight = byId(`dp-term-${index}`).valueAsNumber;
      const names = Object.keys(term.parameters ?? {});
      const parameters = Object.fromEntries(names.map((name) => [name, byId(`dp-term-${index}-${name}`).valueAsNumber]));
      const same = names.every((name) => parameters[name] === term.parameters[name]);
      return term.term !== undefined && same ? { weight, term: term.term } : { weight, factor: term.factor, parameters };
    })
    .filter((term) => term.weight > 0);
}

async function play() {
  cancel();
  const mine = new AbortController();
  asking = mine;
  stopTimeline();
  say("Playing…");
  byId("dp-try").setAttribute("aria-busy", "true");
  try {
    const found = await readOutlook(byId("dp-try-queue").value, terms(), mine.signal);
    if (asking === mine) {
      show(found);
    }
  } catch (error) {
    if (asking === mine) {
      byId("dp-try-found").hidden = true;
      say(error.message);
    }
  }
  if (asking === mine) {
    asking = null;
    byId("dp-try").setAttribute("aria-busy", "false");
  }
}

function say(text) {
  setText(byId("dp-try-says"), text);
}

function show(found) {
  byId("dp-try-found").hidden = !found.played;
  if (!found.played) {
    say("Nothing was played: no task waits for its turn.");
    return;
  }
  const rest = found.left_out ? ` ${count(found.left_out)} further back were not.` : "";
  say(
    `Played ${counted(found.played, "task")} on ${counted(found.slots, "slot")}, in ${found.futures} possible futures.${rest} ` +
      `Run times are as learned, and nothing new arrives. The last one starts in ${rangeText(found.last.now)} now, in ${rangeText(found.last.then)} then.`,
  );
  showTimeline(found);
  showGroups("dp-try-names", found.tasks, "task");
  showGroups("dp-try-keys", found.keys, "key");
}

function counted(number, noun) {
  return `${count(number)} ${noun}${number === 1 ? "" : "s"}`;
}

function rangeText(range) {
  return `${seconds(range.median)} (${seconds(range.low)} to ${seconds(range.high)})`;
}

function showGroups(id, groups, title) {
  const lines = groups.map((group) =>
    make(
      "tr",
      {},
      make("th", { scope: "row" }, orNothing(group[title])),
      ...[count(group.tasks), rangeText(group.now), rangeText(group.then)].map((cell, index) =>
        make("td", { "data-title": ["Tasks", "Now", "Then"][index] }, cell),
      ),
    ),
  );
  byId(id).replaceChildren(...lines);
}
