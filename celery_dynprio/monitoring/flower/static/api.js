// The requests of the page.

import { byId } from "./dom.js";

const PATIENCE = 60_000; // milliseconds

async function ask(path, options = {}) {
  const [answer, found] = await reach(path, options);
  if (answer.type === "opaqueredirect") {
    throw new Error("You are logged out. Reload the page."); // to where one logs in, maybe on another host
  }
  if (!found) {
    throw new Error(`Flower answered ${answer.status}`);
  }
  if (!answer.ok) {
    throw new Error(found.error);
  }
  return found;
}

// The answer, and what it says if that is JSON.
async function reach(path, options) {
  try {
    // From the origin: the address of the page itself may have a password in it, which fetch refuses.
    const { signal, ...others } = options;
    const patience = AbortSignal.timeout(PATIENCE);
    const answer = await fetch(window.location.origin + byId("dynprio").dataset.root + path, {
      redirect: "manual",
      signal: signal ? AbortSignal.any([signal, patience]) : patience,
      ...others,
    });
    const kind = answer.headers.get("Content-Type") || "";
    return [answer, kind.startsWith("application/json") ? await answer.json() : null];
  } catch (error) {
    const problem = error.name === "TimeoutError" ? `No answer in ${PATIENCE / 1000} s` : "Flower cannot be reached";
    const text = options.method === "POST" ? `${problem}; it may have been done nevertheless` : problem;
    throw new Error(text, { cause: error });
  }
}

export function readData(view) {
  return ask(`/data?${new URLSearchParams(view)}`);
}

export function readTask(id) {
  return ask(`/task/${encodeURIComponent(id)}`);
}

export function readPolicy() {
  return ask("/policy");
}

// Play a queue forward under other terms; the signal ends it, here and in Flower.
export function readOutlook(queue, terms, signal) {
  return ask(`/outlook?${new URLSearchParams({ queue, terms: JSON.stringify(terms) })}`, { signal });
}

export async function act(op, ids = [], changes = {}, why = "") {
  const headers = { "Content-Type": "application/json", "X-XSRFToken": byId("dynprio").dataset.token };
  const body = JSON.stringify({ op, ids, changes, why });
  return (await ask("/do", { method: "POST", headers, body })).results;
}
