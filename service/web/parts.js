// Parts that several tabs use.

import { mayPass } from "/web/api.js";
import { button, el } from "/web/dom.js";
import { errorText, percent, t } from "/web/text.js";

/** A paragraph. */
export const paragraph = (content, kind = null) => el("p", { class: kind }, content);

/** The heading of a tab. */
export const heading = (title, lead) => [el("h1", {}, title), el("p", { class: "lead" }, lead)];

/** A section with a heading. */
export const section = (title, ...children) => el("section", { class: "sheet" }, el("h2", {}, title), ...children);

/** A message that screen readers read at once. */
export const alertNotice = (...children) => el("div", { class: "notice bad", role: "alert" }, ...children);

/** An error in words: title, remedy and, small, the sentence of the service; a button for `retry` where that may help. */
export function errorNotice(error, subject = null, retry = null) {
  const { title, remedy, detail } = errorText(error);
  return alertNotice(
    subject && el("h2", {}, subject),
    el("p", {}, el("b", {}, title)),
    remedy && paragraph(remedy),
    detail && el("p", { class: remedy && "quiet", lang: "en" }, detail),
    retry && mayPass(error) && button(t("retry"), retry),
  );
}

/** A warning of a model that is no better than guessing, with the sentence of its bundle; of any other, nothing. */
export function guessingNotice({ provenance }) {
  const sentence = provenance.no_better_than_guessing;
  return sentence && alertNotice(el("p", {}, el("b", {}, t("guessing"))), el("p", { class: "quiet", lang: "en" }, String(sentence)));
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
