// Lists of facts, and tables.

import { el } from "/web/dom.js";

/** [name, value] pairs as a list; pairs without a value are left out. */
export function facts(pairs) {
  const known = pairs.filter(([, value]) => value !== undefined && value !== null);
  return el("dl", { class: "facts" }, known.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
}

/** A table called `name`; the first cell of a row is its header, a cell is a text or a part. */
export function table(name, headers, rows) {
  const cell = (content) => (content instanceof HTMLTableCellElement ? content : el("td", {}, content));
  const row = ([first, ...rest]) => el("tr", {}, el("th", { scope: "row" }, first), rest.map(cell));
  const head = headers.map((text) => el("th", { scope: "col" }, text));
  const content = el("table", {}, el("thead", {}, el("tr", {}, head)), el("tbody", {}, rows.map(row)));
  return el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": name }, content);
}
