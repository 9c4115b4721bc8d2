// The requests of the page.

import { byId } from "./dom.js";

async function ask(path, options) {
  // From the origin: the address of the page itself may have a password in it, which fetch refuses.
  const answer = await fetch(window.location.origin + byId("dynprio").dataset.root + path, options);
  const kind = answer.headers.get("Content-Type") || "";
  if (!kind.startsWith("application/json")) {
    throw new Error(answer.redirected ? "You are logged out: load the page again" : `Flower answered ${answer.status}`);
  }
  const found = await answer.json();
  if (!answer.ok) {
    throw new Error(found.error);
  }
  return found;
}

export function readData(view) {
  return ask(`/data?${new URLSearchParams(view)}`);
}

export function readTask(id) {
  return ask(`/task/${encodeURIComponent(id)}`);
}

export async function act(op, ids = [], changes = {}, why = "") {
  const headers = { "Content-Type": "application/json", "X-XSRFToken": byId("dynprio").dataset.token };
  const body = JSON.stringify({ op, ids, changes, why });
  return (await ask("/do", { method: "POST", headers, body })).results;
}
