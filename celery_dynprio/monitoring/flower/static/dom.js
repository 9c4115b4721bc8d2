// Elements. What messages say reaches the page by textContent and attributes only: it is never read as HTML.

export function byId(id) {
  return document.getElementById(id);
}

// make("a", {class: "x", href: "/"}, "text", child, ...)
export function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

// Change only what differs, so that focus, selection and screen readers are left in peace.
export function setText(node, text) {
  if (node.textContent !== text) {
    node.textContent = text;
  }
}

// Put these children into a parent, in this order; those that are in place already are not touched.
export function place(parent, children) {
  const wanted = new Set(children);
  // oxlint-disable-next-line unicorn/no-useless-spread -- the list is live: removing a child would skip the next one
  for (const child of [...parent.children]) {
    if (!wanted.has(child)) {
      child.remove();
    }
  }
  children.forEach((child, index) => {
    if (parent.children[index] !== child) {
      parent.insertBefore(child, parent.children[index] || null);
    }
  });
}

// A bar of so much of its full width.
export function makeBar(kind = "") {
  return make("span", { class: `dp-bar ${kind}`, "aria-hidden": "true" }, make("span", { class: "dp-fill" }));
}

export function setBar(bar, fraction) {
  bar.firstChild.style.width = `${Math.min(Math.max(fraction, 0), 1) * 100}%`;
}
