// Building the document. Text goes in as text nodes and attributes as attributes, never as markup.

const SVG = "http://www.w3.org/2000/svg";
let fields = 0; // so far, for their ids

/** An element with attributes, listeners (`onclick`), CSS variables (`vars`) and children, lists of children too; empty ones are left out. */
export function el(name, given = {}, ...children) {
  return filled(document.createElement(name), given, children);
}

/** The same of SVG. */
export function svg(name, given = {}, ...children) {
  return filled(document.createElementNS(SVG, name), given, children);
}

function filled(node, given, children) {
  for (const [key, value] of Object.entries(given)) put(node, key, value);
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

function put(node, key, value) {
  if (value === undefined || value === null || value === false) return;
  if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
  else if (key === "vars") for (const [name, setting] of Object.entries(value)) node.style.setProperty(name, setting);
  else if (key === "value") node.value = value;
  else node.setAttribute(key, value === true ? "" : value);
}

/** Puts `children` in the place of what `node` held. */
export function fill(node, ...children) {
  node.replaceChildren(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** The element called `id`. */
export const byId = (id) => document.getElementById(id);

/** A button with a text, or with what else it shows. */
export const button = (shown, onclick, given = {}) => el("button", { type: "button", onclick, ...given }, shown);

/** A control below its label. */
export function labelled(text, control) {
  control.id ||= `field-${++fields}`;
  return el("div", { class: "field" }, el("label", { for: control.id }, text), control);
}

/** A select of [value, text] pairs. */
export function select(pairs, chosen, onchange, given = {}) {
  const options = pairs.map(([value, text]) => el("option", { value, selected: value === chosen }, text));
  return el("select", { onchange: (event) => onchange(event.target.value), ...given }, options);
}

/** A check box with its text behind it. */
export function check(text, checked, onchange) {
  const box = el("input", { type: "checkbox", checked, onchange: (event) => onchange(event.target.checked) });
  return el("label", { class: "check" }, box, text);
}

/** Calls `work` once no further call has come for `milliseconds`. */
export function settled(work, milliseconds) {
  let timer;
  return (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => work(...given), milliseconds);
  };
}

/** Hands `blob` to the person as a file. */
export function save(blob, name) {
  const url = URL.createObjectURL(blob);
  el("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}
