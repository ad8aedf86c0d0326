// Elements without markup in strings: text stays text, and the page's policy would refuse anything else.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== null) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

/** An HTML element with attributes and children (nodes or text). */
export function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same for SVG. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

/** Sets text only where it differs, so that a quiet page costs nothing and a selection survives. */
export function setText(node, value) {
  if (node.textContent !== value) node.textContent = value;
}

/** Sets an attribute only where it differs; null removes it. */
export function setAttr(node, name, value) {
  if (value === null) node.removeAttribute(name);
  else if (node.getAttribute(name) !== value) node.setAttribute(name, value);
}

/** Gives a parent one child per item, made when missing, updated in place, removed when too many. */
export function sync(parent, items, make, update) {
  while (parent.children.length > items.length) parent.lastElementChild.remove();
  while (parent.children.length < items.length) parent.append(make());
  items.forEach((item, i) => update(parent.children[i], item));
}

/** A titled panel: a landmark by its heading. */
export function panel(id, title, ...children) {
  const heading = el("h2", { id: `${id}-title` }, title);
  const root = el("section", { id, class: "panel", "aria-labelledby": heading.id }, el("div", { class: "head" }, heading));
  root.append(...children);
  return root;
}
