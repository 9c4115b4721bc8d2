// The page Priorities. All that came from messages goes through textContent.
(function () {
  "use strict";
  var page = document.getElementById("dynprio"), root = page.dataset.root, mayAct = page.dataset.mayAct === "yes";
  var view = { search: "", sort: "", descending: "", start: 0, count: 25 }, paused = false, timer = 0, asked = 0;
  var $ = function (id) { return document.getElementById(id); };
  function make(tag, text, attributes) {
    var made = document.createElement(tag);
    if (text !== undefined) { made.textContent = text; }
    Object.keys(attributes || {}).forEach(function (name) { made.setAttribute(name, attributes[name]); });
    return made;
  }
  function svg(tag, attributes, text) {
    var made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    Object.keys(attributes).forEach(function (name) { made.setAttribute(name, attributes[name]); });
    if (text !== undefined) { made.textContent = text; }
    return made;
  }
  function seconds(value) { return value === null ? "–" : value < 120 ? value.toFixed(1) + " s" : Math.round(value / 60) + " min"; }
  function say(text) { $("dp-message").textContent = text; }
  async function ask(path, options) {
    var answer = await fetch(root + path, options), text = await answer.text(), found;
    try { found = JSON.parse(text); } catch (error) { found = { error: "Flower answered " + answer.status }; }
    if (!answer.ok) { throw new Error(found.error || "Flower answered " + answer.status); }
    return found;
  }
  function chart(queue) {
    var most = Math.max.apply(null, queue.depths.concat(1)), told = [];
    var made = svg("svg", { viewBox: "0 0 480 " + (queue.depths.length * 16 + 4), "class": "dp-chart", role: "img" });
    queue.depths.forEach(function (depth, level) {
      var wait = seconds(queue.oldest[level]), y = level * 16;
      made.append(svg("text", { x: 0, y: y + 12 }, "P" + level), svg("rect", { x: 30, y: y + 3, width: 300 * depth / most, height: 11 }),
        svg("text", { x: 36 + 300 * depth / most, y: y + 12 }, depth + (depth ? ", oldest " + wait : "")));
      told.push("P" + level + ": " + depth + ", oldest " + wait);
    });
    made.setAttribute("aria-label", told.join("; "));
    var box = make("div");
    box.append(make("p", queue.queue + ": " + queue.held + " held, " + queue.overflow + " overflow, " + queue.moves + " moves", { "class": "mb-1" }), made);
    return box;
  }
  async function act(op, ids, changes) {
    try {
      var found = await ask("/do", { method: "POST", headers: { "X-XSRFToken": page.dataset.xsrf, "Content-Type": "application/json" },
        body: JSON.stringify({ op: op, ids: ids, changes: changes || {} }) });
      say(op + ": " + (found.results.map(function (each) { return each.answer + (each.detail ? ", " + each.detail : ""); }).join("; ") || "done"));
    } catch (error) { say(error.message); }
    page.querySelector("tbody").dataset.view = ""; refresh();
  }
  function button(text, row, work) {
    var made = make("button", text, { type: "button", "class": "btn btn-sm btn-outline-secondary me-1 mb-1", "aria-label": text + " " + row.name + " " + row.id, "data-do": text });
    made.addEventListener("click", work);
    return made;
  }
  function set(row) {
    var dialog = $("dp-set");
    $("dp-weight").value = row.weight; $("dp-deadline").value = ""; dialog.returnValue = "";
    dialog.onclose = function () {
      if (dialog.returnValue !== "set") { return; }
      var changes = { weight: Number($("dp-weight").value) };
      if ($("dp-deadline").value !== "") { changes.deadline = Number($("dp-deadline").value); }
      act("reprioritize", [row.id], changes);
    };
    dialog.showModal();
  }
  function line(row) {
    var made = make("tr", undefined, { "data-id": row.id }), bar = make("button", undefined, { type: "button", "class": "dp-bar" }), fill = make("i");
    fill.style.width = row.score * 100 + "%";
    bar.append(make("span", row.score.toFixed(3)), make("span", row.factors.map(function (each) {
      return each.factor + " " + each.value.toFixed(3) + " → +" + each.contribution.toFixed(3); }).join("\n") || "pinned: no policy moves it"), fill);
    var name = make("td", row.name); name.append(make("div", row.id, { "class": "small text-body-secondary" }));
    var score = make("td"), actions = make("td"); score.append(bar);
    made.append(name, make("td", row.place + (row.pinned === null ? "" : " pinned")), score, make("td", seconds(row.waited)), make("td", row.weight), make("td", row.key || ""), actions);
    actions.append(button("Why", row, function () { about(row.id); }));
    if (mayAct) {
      actions.append(button("Bump", row, function () { act("bump", [row.id]); }),
        row.place === "held" ? button("Release", row, function () { act("release", [row.id]); }) : button("Hold", row, function () { act("hold", [row.id]); }),
        button("Set", row, function () { set(row); }),
        button("Cancel", row, function () { if (window.confirm("Cancel " + row.name + "? It is removed for good.")) { act("cancel", [row.id]); } }));
    }
    return made;
  }
  async function about(id) {
    var body = $("dp-about-body"); $("dp-about").hidden = false; $("dp-about-title").textContent = "Task " + id; body.textContent = "loading";
    $("dp-about").focus();
    try {
      var found = await ask("/task/" + encodeURIComponent(id)); body.textContent = "";
      body.append(make("p", found.state));
      if (found.explanation) {
        body.append(make("pre", found.explanation.contributions.map(function (each) { return each.factor + " " + each.value.toFixed(3) + " × " + each.weight + " → +" + each.contribution.toFixed(3); }).join("\n")));
        body.append(make("pre", found.explanation.ahead.map(function (each) { return "behind " + each.task.name + ": " + each.reason; }).join("\n")));
      }
      body.append(make("pre", found.trace ? found.trace.spans.map(function (span) {
        return "  ".repeat(Math.min(span.depth, 20)) + span.state + " " + span.task_name + " " + (span.host || "") + (span.ran === null ? "" : " ran " + span.ran.toFixed(3) + " s"); }).join("\n") : "no trace is kept of it"));
    } catch (error) { body.textContent = error.message; }
  }
  function show(found) {
    paused = found.paused;
    $("dp-state").textContent = paused ? "paused" : "moving";
    if ($("dp-pause")) { $("dp-pause").textContent = paused ? "Resume" : "Pause"; }
    $("dp-charts").replaceChildren.apply($("dp-charts"), found.queues.map(chart));
    $("dp-range").textContent = (found.rows.length ? view.start + 1 : 0) + "–" + (view.start + found.rows.length) + " of " + found.matching;
    $("dp-before").disabled = !view.start; $("dp-next").disabled = view.start + found.rows.length >= found.matching;
    var table = page.querySelector("tbody");
    if (!table.contains(document.activeElement) || table.dataset.view !== JSON.stringify(view)) { // a focused button stays where it is
      table.replaceChildren.apply(table, found.rows.map(line)); table.dataset.view = JSON.stringify(view);
    }
    $("dp-log").replaceChildren.apply($("dp-log"), found.log.map(function (each) {
      return make("li", new Date(each.at * 1000).toLocaleTimeString() + " " + each.by + ": " + each.op + " " + (each.task || each.id) + " " + each.answer + (each.why ? " (" + each.why + ")" : "")); }));
    $("dp-use").replaceChildren.apply($("dp-use"), found.use.map(function (each) { return make("li", each[0] + ": " + each[1].toFixed(1) + " s"); }));
  }
  async function refresh() {
    var number = ++asked; clearTimeout(timer);
    try { var found = await ask("/data?" + new URLSearchParams(view)); if (number === asked) { show(found); } } catch (error) { say(error.message); }
    if (number === asked) { timer = setTimeout(refresh, 2000); }
  }
  function change(changes) { Object.assign(view, changes); if (document.activeElement.closest("tbody")) { document.activeElement.blur(); } refresh(); }
  $("dp-search").addEventListener("input", function () { change({ search: this.value, start: 0 }); });
  $("dp-before").addEventListener("click", function () { change({ start: Math.max(view.start - view.count, 0) }); });
  $("dp-next").addEventListener("click", function () { change({ start: view.start + view.count }); });
  page.querySelectorAll(".dp-sort").forEach(function (each) { each.addEventListener("click", function () {
    var down = view.sort === each.dataset.sort && !view.descending ? "1" : "";
    page.querySelectorAll("th").forEach(function (head) { head.removeAttribute("aria-sort"); });
    each.parentElement.setAttribute("aria-sort", down ? "descending" : "ascending");
    change({ sort: each.dataset.sort, descending: down, start: 0 });
  }); });
  if ($("dp-pause")) { $("dp-pause").addEventListener("click", function () { act(paused ? "resume" : "pause", []); }); }
  if (location.hash.length > 1) { about(decodeURIComponent(location.hash.slice(1))); }
  refresh();
}());
