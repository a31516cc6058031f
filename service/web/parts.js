// Parts that several tabs are made of.

import { el } from "/web/dom.js";
import { percent } from "/web/text.js";

/** A paragraph. */
export const words = (text, kind = "") => el("p", { class: kind || null }, text);

/** The head of a tab. */
export const title = (heading, lead) => [el("h1", {}, heading), el("p", { class: "lead" }, lead)];

/** A section with a heading. */
export const sheet = (heading, ...children) => el("section", { class: "sheet" }, el("h2", {}, heading), ...children);

/** What went wrong, told at once. */
export const trouble = (message) => el("p", { class: "notice bad", role: "alert" }, message);

/** A text that may be longer than its box. */
export const code = (text) => el("pre", { tabindex: 0 }, text);

/** Shares 0…1 as bars: `pairs` are [name, share]. */
export function bars(pairs, given = {}) {
  const bar = ([name, share]) => {
    const track = el("span", { class: "track", vars: { "--share": share } });
    return el("li", {}, el("span", { class: "name" }, name), track, el("span", { class: "figure" }, percent(share)));
  };
  return el("ol", { class: "bars", ...given }, pairs.map(bar));
}

/** Names with their values; what has none is left out. */
export function facts(pairs) {
  const known = pairs.filter(([, value]) => value !== undefined && value !== null);
  return el("dl", { class: "facts" }, known.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
}

/** A table that is called `name`; the first cell of a row is its head, and each cell is a text or a part. */
export function table(name, heads, rows) {
  const cell = (content) => (content instanceof HTMLTableCellElement ? content : el("td", {}, content));
  const row = ([first, ...rest]) => el("tr", {}, el("th", { scope: "row" }, first), rest.map(cell));
  const head = heads.map((text) => el("th", { scope: "col" }, text));
  const inside = el("table", {}, el("thead", {}, el("tr", {}, head)), el("tbody", {}, rows.map(row)));
  return el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": name }, inside);
}
