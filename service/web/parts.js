// Parts that several tabs use.

import { el } from "/web/dom.js";
import { errorText, percent } from "/web/text.js";

/** A paragraph. */
export const paragraph = (content, kind = null) => el("p", { class: kind }, content);

/** The heading of a tab. */
export const heading = (title, lead) => [el("h1", {}, title), el("p", { class: "lead" }, lead)];

/** A section with a heading. */
export const section = (title, ...children) => el("section", { class: "sheet" }, el("h2", {}, title), ...children);

/** A message that screen readers read at once. */
export const alertNotice = (...children) => el("div", { class: "notice bad", role: "alert" }, ...children);

/** An error in words: title, remedy and, small, the sentence of the service. */
export function errorNotice(error, subject = null) {
  const { title, remedy, detail } = errorText(error);
  return alertNotice(
    subject && el("h2", {}, subject),
    el("p", {}, el("b", {}, title)),
    remedy && paragraph(remedy),
    detail && el("p", { class: remedy && "quiet", lang: "en" }, detail),
  );
}

/** A text that may be larger than its box. */
export const code = (text) => el("pre", { tabindex: 0 }, text);

/** Shares 0…1 as bars: `pairs` are [name, share]. */
export function bars(pairs, attributes = {}) {
  const bar = ([name, share]) => {
    const track = el("span", { class: "track", vars: { "--share": share } });
    return el("li", {}, el("span", { class: "name" }, name), track, el("span", { class: "figure" }, percent(share)));
  };
  return el("ol", { class: "bars", ...attributes }, pairs.map(bar));
}

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
