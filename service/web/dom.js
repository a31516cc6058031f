// Elements of the document. Texts become text nodes and attributes attributes, never markup.

const SVG = "http://www.w3.org/2000/svg";
let fieldCount = 0; // for the ids of fields

/** An element with attributes, listeners (`onclick`), CSS variables (`vars`) and children. */
export function el(name, attributes = {}, ...children) {
  return completed(document.createElement(name), attributes, children);
}

/** An SVG element, as `el` makes one. */
export function svg(name, attributes = {}, ...children) {
  return completed(document.createElementNS(SVG, name), attributes, children);
}

function completed(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) setAttribute(node, name, value);
  node.append(...present(children));
  return node;
}

const present = (children) => children.flat().filter((child) => child !== null && child !== undefined && child !== false);

function setAttribute(node, name, value) {
  if (value === undefined || value === null || value === false) return;
  if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
  else if (name === "vars") for (const [variable, setting] of Object.entries(value)) node.style.setProperty(variable, setting);
  else if (name === "value") node.value = value;
  else node.setAttribute(name, value === true ? "" : value);
}

/** Replaces the children of `node`; lists are flattened, and missing children left out. */
export function fill(node, ...children) {
  node.replaceChildren(...present(children));
  return node;
}

/** The element with this id. */
export const byId = (id) => document.getElementById(id);

/** A button with a text or other content. */
export const button = (content, onclick, attributes = {}) => el("button", { type: "button", onclick, ...attributes }, content);

/** A control below its label. */
export function labelled(text, control) {
  control.id ||= `field-${++fieldCount}`;
  return el("div", { class: "field" }, el("label", { for: control.id }, text), control);
}

/** A select of [value, text] pairs; `onchange` gets the new value. */
export function select(pairs, selected, onchange, attributes = {}) {
  const options = pairs.map(([value, text]) => el("option", { value, selected: value === selected }, text));
  return el("select", { onchange: (event) => onchange(event.target.value), ...attributes }, options);
}

/** A check box before its text; `onchange` gets the new state. */
export function checkBox(text, checked, onchange) {
  const box = el("input", { type: "checkbox", checked, onchange: (event) => onchange(event.target.checked) });
  return el("label", { class: "check" }, box, text);
}

/** Calls `work` once, `milliseconds` after the last call. */
export function debounced(work, milliseconds) {
  let timer;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => work(...values), milliseconds);
  };
}

/** Downloads `blob` as a file. */
export function download(blob, name) {
  const url = URL.createObjectURL(blob);
  el("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000); // the download must have started
}
