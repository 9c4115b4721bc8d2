// What the factors say of a score: shown while a pointer or the keyboard's focus is on it.

import { byId, make } from "./dom.js";
import { score } from "./format.js";

let shown = null; // the element whose factors are shown

export function watchScores(parent, rowOf) {
  const show = (event) => {
    const target = event.target.closest(".dp-score-bar");
    if (target) {
      open(target, rowOf(target));
    }
  };
  parent.addEventListener("mouseover", show);
  parent.addEventListener("focusin", show);
  parent.addEventListener("mouseout", hide);
  parent.addEventListener("focusout", hide);
  document.addEventListener("keydown", (event) => event.key === "Escape" && close());
  document.addEventListener("scroll", follow, true); // the keyboard's focus may have scrolled it into sight
}

function hide(event) {
  if (event.target.closest(".dp-score-bar") && !event.target.closest(".dp-score-bar").contains(event.relatedTarget)) {
    close();
  }
}

// The rows were read anew.
export function refreshTip(rowOf) {
  if (shown && !shown.isConnected) {
    close();
  } else if (shown) {
    open(shown, rowOf(shown));
  }
}

export function factorTable(factors, total) {
  const head = ["Factor", "Value", "Weight", "Adds"].map((title) => make("th", { scope: "col" }, title));
  const lines = factors.map((each) =>
    make(
      "tr",
      {},
      make("th", { scope: "row" }, each.factor),
      ...[score(each.value), String(each.weight), score(each.contribution)].map((text) => make("td", {}, text)),
    ),
  );
  const sum = make("tr", {}, make("th", { scope: "row", colspan: "3" }, "Score"), make("td", {}, score(total)));
  const parts = [make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...lines), make("tfoot", {}, sum)];
  return make("table", { class: "dp-factors" }, ...parts);
}

function open(target, row) {
  if (shown && shown !== target) {
    close();
  }
  const tip = byId("dp-tip");
  const pinned = row.pinned === null ? "" : `Pinned to P${row.pinned}: no policy moves it.`;
  tip.replaceChildren(row.factors.length ? factorTable(row.factors, row.score) : pinned || "The policy failed to score it.");
  tip.hidden = false;
  target.setAttribute("aria-describedby", tip.id);
  shown = target;
  putBeside(tip, target.getBoundingClientRect());
}

function putBeside(tip, beside) {
  const below = beside.bottom + tip.offsetHeight + 8 < window.innerHeight;
  tip.style.left = `${Math.max(8, Math.min(beside.left, window.innerWidth - tip.offsetWidth - 8))}px`;
  tip.style.top = `${below ? beside.bottom + 4 : Math.max(8, beside.top - tip.offsetHeight - 4)}px`;
}

function follow() {
  if (shown) {
    putBeside(byId("dp-tip"), shown.getBoundingClientRect());
  }
}

function close() {
  if (shown) {
    shown.removeAttribute("aria-describedby");
    byId("dp-tip").hidden = true;
    shown = null;
  }
}
