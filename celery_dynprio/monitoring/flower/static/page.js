// The page Priorities: asks for the data every other second, and shows it.

import { act, readData } from "./api.js";
import { askCancel, askSet, watchDialogs } from "./dialogs.js";
import { showTask } from "./details.js";
import { byId, make, setText } from "./dom.js";
import { clock, count, seconds } from "./format.js";
import { showLevels } from "./levels.js";
import { showObjectives } from "./objectives.js";
import { showFeed, showUse, total } from "./side.js";
import { rowOf, showRows } from "./table.js";
import { watchTimeline } from "./timeline.js";
import { refreshTip, watchScores } from "./tip.js";
import { watchTryout } from "./tryout.js";

const PERIOD = 2000; // milliseconds
const SLOW = 6000; // after which the page says that it has no answer yet
const READ = 5000; // after which what was answered may go
const SOON = 400; // while the server still reads the backlog, and after a letter of the search

const view = { search: "", place: "", sort: "", descending: "", start: 0, count: 25 };
let latest = null; // the data that is shown
let question = 0; // the number of the last request
let timer = 0;
let well = true; // the last answer was one
let looked = false; // the operator asked for other tasks, and has not been told yet how many there are

async function refresh() {
  clearTimeout(timer);
  const number = ++question;
  // Flower, its broker or the network; if the last answer told what is wrong, that says more.
  const slow = setTimeout(() => number === question && well && live(false, `No answer for ${SLOW / 1000} s`), SLOW);
  let next = PERIOD;
  try {
    const found = await readData(view);
    if (number === question) {
      show(found);
      next = found.table.reading ? SOON : PERIOD;
      live(true, `Updated ${clock(found.at)}`);
    }
  } catch (error) {
    if (number === question) {
      live(false, error.message);
    }
  } finally {
    clearTimeout(slow);
  }
  if (number === question) {
    timer = setTimeout(() => !document.hidden && refresh(), next);
  }
}

function live(isWell, text) {
  well = isWell;
  byId("dp-dot").className = `status-dot status-dot-${well ? "live" : "error"}`;
  setText(byId("dp-status"), text);
  setText(byId("dp-stale"), well ? "" : text); // for a screen reader, which is not told each time that all is well
}

function show(found) {
  latest = found;
  const { table } = found;
  if (!table.reading && view.start && view.start >= table.matching) {
    // Those tasks ran meanwhile: the last page that there is now.
    view.start = Math.max(Math.floor((table.matching - 1) / view.count), 0) * view.count;
    refresh();
    return;
  }
  showMetrics(found);
  showLevels(byId("dp-levels"), found.queues);
  showObjectives(found.objectives, found.at);
  showUse(byId("dp-use"), found.use, found.use_total);
  byId("dp-no-use").hidden = found.use.length > 0;
  showFeed(byId("dp-feed"), found.feed, byId("dp-kind").value);
  byId("dp-no-events").hidden = found.events;
  showPlaces(Math.max(...found.queues.map((queue) => queue.depths.length)));
  if (!table.reading) {
    showRows(table.rows, found.queues.length > 1);
    refreshTip(rowOf);
  }
  showRange(table);
}

function showMetrics(found) {
  const waits = found.queues.flatMap((queue) => queue.oldest).filter((wait) => wait !== null);
  setText(byId("dp-front"), total(found.queues.flatMap((queue) => queue.depths)));
  setText(byId("dp-oldest"), seconds(waits.length ? Math.max(...waits) : null));
  setText(byId("dp-parked"), `${total(found.queues.map((queue) => queue.overflow))} / ${total(found.queues.map((queue) => queue.held))}`);
  setText(byId("dp-slots"), found.workers ? `${count(found.slots)} in ${count(found.workers)}` : "none");
  byId("dp-paused").hidden = !found.paused;
  if (byId("dp-pause")) {
    setText(byId("dp-pause"), found.paused ? "Resume moves" : "Pause moves");
  }
}

function showPlaces(levels) {
  const select = byId("dp-place");
  if (select.options.length === levels + 3) {
    return;
  }
  const names = [...Array(levels).keys()].map((level) => `P${level}`);
  const options = [...names, "parked", "held"].map((name) => make("option", { value: name }, name));
  select.replaceChildren(make("option", { value: "" }, "all places"), ...options);
}

function showRange(table) {
  byId("dp-table-card").setAttribute("aria-busy", String(table.reading));
  if (table.reading) {
    setText(byId("dp-range"), "Reading the whole backlog…");
    return;
  }
  const last = view.start + table.rows.length;
  const notes = [];
  if (table.age > 5) {
    notes.push(`as of ${seconds(table.age)} ago`);
  }
  if (table.left_out > 0) {
    notes.push(`${count(table.left_out)} further back were not read`);
  }
  const range = table.rows.length ? `${count(view.start + 1)} to ${count(last)} of ${count(table.matching)}` : "No tasks match";
  setText(byId("dp-range"), [range, ...notes].join(", "));
  if (looked) {
    byId("dp-found").textContent = range; // also if it is the same as before
    looked = false;
  }
  byId("dp-before").disabled = view.start === 0;
  byId("dp-next").disabled = last >= table.matching;
}

function look(changes) {
  Object.assign(view, { start: 0 }, changes);
  looked = true;
  refresh();
}

function sortBy(column) {
  const same = view.sort === column || (view.sort === "" && column === "position");
  const descending = same && !view.descending;
  for (const header of document.querySelectorAll("#dp-table th[data-sort]")) {
    header.removeAttribute("aria-sort");
    if (header.dataset.sort === column) {
      header.setAttribute("aria-sort", descending ? "descending" : "ascending");
    }
  }
  look({ sort: column === "position" && !descending ? "" : column, descending: descending ? "1" : "" });
}

async function perform(op, row, changes, why) {
  const what = row ? `${op} ${row.task} ${row.id}` : op;
  const say = announce(what);
  try {
    const results = await act(op, row ? [row.id] : [], changes, why);
    const answers = results.map((each) => each.answer + (each.detail ? `, ${each.detail}` : ""));
    const done = results.every((each) => each.answer === "done");
    say(answers.join("; ") || "done", done ? "success" : "warning");
  } catch (error) {
    say(error.message, "danger");
  }
  refresh();
}

// Tells at once what was asked for, above what was answered a moment ago; what it returns tells what became of it.
// A success stays until it is read, or is the last; what went wrong until the next press after that.
function announce(what) {
  const messages = byId("dp-message");
  messages.querySelectorAll(".dp-read").forEach((each) => each.remove());
  const message = make("div", { class: "alert alert-info py-2" }, `${what} …`);
  messages.prepend(message);
  return (answer, kind) => {
    message.className = `alert alert-${kind} py-2`;
    message.textContent = `${what}: ${answer}`;
    setTimeout(() => {
      message.classList.add("dp-read");
      messages.querySelectorAll(".dp-read.alert-success:not(:first-child)").forEach((each) => each.remove());
    }, READ);
  };
}

function press(event) {
  const button = event.target.closest("button[data-op]");
  if (!button || event.detail > 1) {
    return; // the second click of a double one may be on what took the button's place
  }
  const row = rowOf(button);
  const { op } = button.dataset;
  if (op === "about") {
    showTask(row.id);
  } else if (op === "set") {
    askSet(row, latest.queues[0].depths.length, (changes, why) => perform("reprioritize", row, changes, why));
  } else if (op === "cancel") {
    askCancel(row, (why) => perform("cancel", row, {}, why));
  } else {
    perform(op, row);
  }
}

function pressOnce(event) {
  if (event.repeat && (event.key === "Enter" || event.key === " ")) {
    event.preventDefault(); // a key that is held would press what took the button's place
  }
}

function showLinked() {
  const linked = window.location.hash.slice(1);
  if (linked && !byId(linked)) { // Flower's own link to the main content is no task
    showTask(decodeURIComponent(linked));
  }
}

function watch() {
  let typed = 0;
  byId("dp-search").addEventListener("input", (event) => {
    clearTimeout(typed);
    typed = setTimeout(() => look({ search: event.target.value }), SOON);
  });
  byId("dp-place").addEventListener("change", (event) => look({ place: event.target.value }));
  byId("dp-kind").addEventListener("change", (event) => latest && showFeed(byId("dp-feed"), latest.feed, event.target.value));
  byId("dp-before").addEventListener("click", () => look({ start: Math.max(view.start - view.count, 0) }));
  byId("dp-next").addEventListener("click", () => look({ start: view.start + view.count }));
  for (const header of document.querySelectorAll("#dp-table th[data-sort]")) {
    header.firstElementChild.addEventListener("click", () => sortBy(header.dataset.sort));
  }
  byId("dp-rows").addEventListener("click", press);
  byId("dp-rows").addEventListener("keydown", pressOnce);
  watchScores(byId("dp-rows"), rowOf);
  watchTryout();
  watchTimeline();
  if (byId("dp-pause")) {
    byId("dp-pause").addEventListener("click", () => perform(latest && latest.paused ? "resume" : "pause"));
    watchDialogs();
  }
  document.addEventListener("visibilitychange", () => !document.hidden && refresh());
  window.addEventListener("hashchange", showLinked);
}

watch();
refresh();
showLinked();
