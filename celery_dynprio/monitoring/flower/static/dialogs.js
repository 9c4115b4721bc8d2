// What is asked before a task is changed or cancelled.

import { byId, make } from "./dom.js";
import { borrowFocus } from "./table.js";

let confirmed = () => false; // does what was asked for, and tells whether the dialog may close

export function watchDialogs() {
  byId("dp-set-form").addEventListener("input", () => {
    byId("dp-set-nothing").hidden = true;
  });
  for (const name of ["set", "cancel"]) {
    byId(`dp-${name}-form`).addEventListener("submit", (event) => {
      event.preventDefault();
      if (confirmed()) {
        confirmed = () => false; // a second click
        window.bootstrap.Modal.getInstance(byId(`dp-${name}`)).hide();
      }
    });
  }
}

// Calls `then` with the changes and the reason, once something was changed.
export function askSet(row, levels, then) {
  byId("dp-set-form").reset();
  byId("dp-set-nothing").hidden = true;
  byId("dp-set-task").textContent = `${row.task} ${row.id}`;
  byId("dp-weight").value = row.weight;
  const names = [...Array(levels).keys()].map((level) => make("option", { value: String(level) }, `P${level}`));
  byId("dp-level").replaceChildren(make("option", { value: "" }, "as the policy says"), ...names);
  byId("dp-level").value = row.pinned === null ? "" : String(row.pinned);
  open("set", () => {
    const changes = changesTo(row);
    const changed = Object.keys(changes).length > 0;
    byId("dp-set-nothing").hidden = changed;
    if (changed) {
      then(changes, byId("dp-set-why").value);
    }
    return changed;
  });
}

export function askCancel(row, then) {
  byId("dp-cancel-form").reset();
  byId("dp-cancel-task").textContent = `${row.task} ${row.id}`;
  open("cancel", () => {
    then(byId("dp-cancel-why").value);
    return true;
  });
}

function open(name, then) {
  confirmed = then;
  borrowFocus(byId(`dp-${name}`), "hidden.bs.modal");
  window.bootstrap.Modal.getOrCreateInstance(byId(`dp-${name}`)).show();
}

function changesTo(row) {
  const changes = {};
  const weight = byId("dp-weight").valueAsNumber;
  if (!Number.isNaN(weight) && weight !== row.weight) {
    changes.weight = weight;
  }
  const deadline = byId("dp-deadline").valueAsNumber;
  if (byId("dp-no-deadline").checked) {
    changes.deadline = null;
  } else if (!Number.isNaN(deadline)) {
    changes.deadline = deadline;
  }
  const level = byId("dp-level").value === "" ? null : Number(byId("dp-level").value);
  if (level !== row.pinned) {
    changes.level = level;
  }
  return changes;
}
