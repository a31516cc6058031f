// Try: give pictures, read the answers.

import { button, el, fill } from "/web/dom.js";
import { choose, everywhere, listen, sources } from "/web/pictures.js";
import { bars, title } from "/web/parts.js";
import { shot, state } from "/web/state.js";
import { duration, figure, percent, t } from "/web/text.js";

const STAGES = ["read", "decode", "queue", "infer", "encode"];
const SMALL = 120; // pixels: below it a picture is shown as squares, not as a blur
const parts = {};

listen(() => parts.answer && show());
everywhere(() => (location.hash = "try"));

/** Draws the tab into `root`. */
export function draw(root) {
  parts.given = el("div", { class: "frame" });
  parts.answer = el("div", { class: "answer", "aria-live": "polite" });
  parts.grid = el("ul", { class: "grid" });
  parts.stage = el("div", { class: "stage" }, el("div", { class: "left" }, parts.given, parts.grid, sources()), parts.answer);
  fill(
    root,
    title(t("try.title"), t("try.lead", { classes: state.manifest.labels.length })),
    parts.stage,
  );
  show();
}

function show() {
  const looked = shot();
  fill(parts.given, looked ? picture(looked) : el("p", { class: "drop" }, t("try.drop")));
  parts.stage.classList.toggle("given", looked !== undefined);
  fill(parts.answer, looked ? answer(looked) : nothing());
  fill(parts.grid, state.shots.length > 1 ? state.shots.map(card) : []);
}

function picture({ url, name }) {
  const tiny = (event) => event.target.classList.toggle("small", event.target.naturalWidth < SMALL);
  const image = el("img", { src: url, alt: t("try.given", { name }), onload: tiny });
  return el("figure", {}, image, el("figcaption", { class: "quiet" }, name));
}

function nothing() {
  const advice = ["one", "two", "three"].map((which) => el("p", {}, t(`try.what.${which}`)));
  return el("div", { class: "nothing" }, el("h2", {}, t("try.what")), advice);
}

function answer({ answer: found, name }) {
  if (found === null) return el("p", { class: "quiet" }, t("try.waiting"));
  if (found.error) return refused(found.error, name);
  const shares = found.top.map(({ label, probability }) => [label, probability]);
  const why = el("a", { class: "button main", href: "#why" }, t("try.why", { label: found.label }));
  return el(
    "div",
    {},
    verdict(found),
    bars(shares, { "aria-label": t("try.bars") }),
    el("p", {}, why),
    trust(found),
    times(found.timing_ms),
  );
}

function refused(problem, name) {
  return el("div", { class: "notice bad", role: "alert" }, el("h2", {}, t("try.refused", { name })), el("p", {}, problem.detail));
}

function verdict({ label, probability }) {
  const calibrated = state.manifest.temperature !== 1 || state.manifest.entropy_power > 0;
  const values = { share: percent(probability), hundred: Math.round(100 * probability) };
  const sense = t(calibrated ? "try.calibrated" : "try.uncalibrated", values);
  const said = el("p", { class: "verdict" }, el("strong", {}, label), " ", el("span", {}, percent(probability)));
  return [said, el("p", { class: "sense" }, sense)];
}

/** The prediction set and the familiarity, or that this model has none. */
function trust({ prediction_set: set, familiarity }) {
  return el(
    "dl",
    { class: "trust" },
    el("dt", {}, t("set.title")),
    el("dd", {}, setInWords(set)),
    el("dt", {}, t("familiar.title")),
    el("dd", {}, familiarInWords(familiarity)),
  );
}

function setInWords(set) {
  if (!set) return t("set.none");
  const values = { labels: set.labels.join(", "), coverage: percent(set.coverage), count: set.labels.length };
  return t(set.labels.length === 1 ? "set.one" : "set.several", values);
}

function familiarInWords(familiarity) {
  if (!familiarity) return t("familiar.none", { classes: state.manifest.labels.length });
  const values = { score: figure(familiarity.score), threshold: figure(familiarity.threshold) };
  return t(familiarity.familiar ? "familiar.yes" : "familiar.no", values);
}

function times(milliseconds) {
  const stages = STAGES.filter((stage) => stage in milliseconds);
  const part = (stage) => el("span", { class: `part ${stage}`, vars: { "--part": milliseconds[stage] } });
  const item = (stage) => el("li", { class: stage }, t(`stage.${stage}`), " ", el("b", {}, duration(milliseconds[stage])));
  return el(
    "div",
    { class: "times" },
    el("p", { class: "quiet" }, t("try.times", { total: duration(milliseconds.total) })),
    el("div", { class: "parts", "aria-hidden": "true" }, stages.map(part)),
    el("ul", {}, stages.map(item)),
  );
}

function card({ url, name, answer: found }, index) {
  const given = { class: "card", "aria-pressed": String(index === state.chosen) };
  const pressed = button([el("img", { src: url, alt: "" }), inCard(found, name)], () => press(index), given);
  return el("li", { class: found?.error ? "bad" : "" }, pressed);
}

/** Shows the picture at `index`; the card that was pressed is a new one, and keeps the keyboard's place. */
function press(index) {
  choose(index);
  parts.grid.children[index].firstChild.focus();
}

function inCard(found, name) {
  if (found === null) return el("span", { class: "quiet" }, t("try.waiting"));
  if (found.error) return el("span", { class: "why-not" }, el("b", {}, name), " ", found.error.detail);
  return el("span", {}, el("b", {}, found.label), " ", percent(found.probability));
}
