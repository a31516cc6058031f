// The tab Try: images in, predictions out.

import { loaded } from "/web/api.js";
import { el, fill } from "/web/dom.js";
import { acceptEverywhere, imageSources, onImages, predictAgain, sendFile } from "/web/images.js";
import { bars, errorNotice, guessingNotice, heading } from "/web/parts.js";
import { nameOf, selectedImage, state } from "/web/state.js";
import { duration, loadMore, number, ofLanguage, percent, rounded, t } from "/web/text.js";

const STAGES = ["read", "decode", "queue", "infer", "encode"];
const SMALL = 120; // pixels: a smaller image is shown in squares, because blur would hide them
const MAX_NAMES = 20; // of a prediction set
const parts = {};

onImages(() => parts.answer && show());
acceptEverywhere(() => (location.hash = "try"));

/** Draws the tab into `root`. */
export function draw(root) {
  parts.frame = el("div", { class: "frame" });
  parts.answer = el("div", { class: "answer", "aria-live": "polite" });
  parts.grid = el("div", {});
  parts.stage = el("div", { class: "stage" }, el("div", { class: "left" }, parts.frame, parts.grid, imageSources()), parts.answer);
  const { labels, title, description } = state.manifest;
  const lead = t("try.lead", { classes: number(labels.length) });
  const about = description && el("p", { class: "about quiet" }, ofLanguage(description));
  fill(root, heading(title ? ofLanguage(title) : t("try.title"), lead), guessingNotice(state.manifest), about, parts.stage);
  show();
}

function show() {
  const image = selectedImage();
  fill(parts.frame, image ? figure(image) : el("p", { class: "drop" }, t("try.drop")));
  parts.stage.classList.toggle("given", image !== undefined);
  fill(parts.answer, image ? answerOf(image) : help());
  if (state.images.length > 1) showGrid();
  else fill(parts.grid);
}

/** Draws the grid; its module is loaded with the first several images, and then at once. */
async function showGrid() {
  try {
    const [{ drawGrid }] = await loaded(Promise.all([import("/web/grid.js"), loadMore()]));
    parts.drawGrid = drawGrid;
  } catch (error) {
    fill(parts.grid, errorNotice(error, null, () => location.reload()));
    return;
  }
  if (state.images.length > 1) parts.drawGrid(parts.grid);
}

function figure({ url, name, note }) {
  const onload = (event) => event.target.classList.toggle("small", event.target.naturalWidth < SMALL);
  const onerror = (event) => event.target.remove(); // the name below remains
  const image = el("img", { src: url, alt: t("image.given", { name }), onload, onerror });
  return el("figure", {}, image, el("figcaption", { class: "quiet" }, name, note?.(sendFile)));
}

function help() {
  const paragraphs = ["one", "two", "three"].map((key) => el("p", {}, t(`try.help.${key}`)));
  return el("div", { class: "help" }, el("h2", {}, t("try.help")), paragraphs);
}

function answerOf({ answer, name }) {
  if (answer === null) return el("p", { class: "quiet" }, t("try.waiting"));
  if (answer.error) return errorNotice({ problem: answer.error }, t("try.failed", { name }), predictAgain);
  const shares = answer.top.map(({ index, probability }) => [nameOf(index), probability]);
  const why = el("a", { class: "button main", href: "#why" }, t("try.why", { label: nameOf(answer.index) }));
  return el(
    "div",
    {},
    state.manifest.head === "sigmoid" ? likely(answer) : verdict(answer),
    bars(shares, { "aria-label": t("try.bars") }),
    el("p", {}, why),
    state.manifest.head === "sigmoid" ? possible(answer) : trust(answer),
    times(answer.timing_ms),
  );
}

const isUnfamiliar = ({ familiarity }) => familiarity?.familiar === false;

function verdict(answer) {
  const { index, probability, familiarity } = answer;
  if (isUnfamiliar(answer)) {
    const guess = el("span", {}, t("try.guess", { label: nameOf(index) }));
    return [el("p", { class: "verdict unfamiliar" }, el("strong", {}, t("try.unfamiliar")), " ", guess), el("p", { class: "meaning" }, familiarityText(familiarity))];
  }
  const calibrated = state.manifest.temperature !== 1 || state.manifest.entropy_power > 0;
  const values = { share: percent(probability), hundred: Math.round(100 * probability) };
  const meaning = t(calibrated ? "try.calibrated" : "try.uncalibrated", values);
  return [el("p", { class: "verdict" }, el("strong", {}, nameOf(index)), " ", el("span", {}, percent(probability))), el("p", { class: "meaning" }, meaning)];
}

/** The classes of a multi-label model from half on, each with a probability for itself. */
function likely({ likely: classes }) {
  const names = classes.slice(0, MAX_NAMES).map(({ index, probability }) => [el("strong", {}, nameOf(index)), " ", el("span", {}, percent(probability)), " "]);
  const answer = el("p", { class: "verdict" }, classes.length > 0 ? names.flat() : el("strong", {}, t("try.no-class")));
  return [answer, el("p", { class: "meaning" }, t("try.each"))];
}

/** The prediction set and the familiarity, or a sentence that the model has none; what an unfamiliar image makes untrue is left out. */
function trust(answer) {
  const { prediction_set: set, familiarity } = answer;
  if (isUnfamiliar(answer)) return el("p", { class: "meaning" }, t("try.withheld"));
  return el(
    "dl",
    { class: "trust" },
    el("dt", {}, t("set.title")),
    el("dd", {}, setText(set)),
    el("dt", {}, t("familiar.title")),
    el("dd", {}, familiarityText(familiarity)),
  );
}

/** The classes that a multi-label model cannot rule out, if images were held out to tell. */
function possible({ prediction_set: set }) {
  return set && el("dl", { class: "trust" }, el("dt", {}, t("set.title")), el("dd", {}, setText(set)));
}

function setText(set) {
  if (!set) return t("set.none");
  const names = set.indices.slice(0, MAX_NAMES).map(nameOf).join(", ");
  const labels = set.size > MAX_NAMES ? t("set.more", { labels: names, more: number(set.size - MAX_NAMES) }) : names;
  const values = { labels, coverage: percent(set.coverage), count: number(set.size) };
  if (state.manifest.head === "sigmoid") return t(set.size > 0 ? "set.each" : "set.empty", values);
  const sentence = t(set.size === 1 ? "set.one" : "set.several", values);
  return `${sentence}${t("set.and")}${set.measured ? likeIt(set.measured, labels) : t("set.like.unknown")}`;
}

/** Of held-out sets like this one, the least share that held the right class; rounded down, so that "at least" stays true. */
function likeIt({ interval, sets, least_size: least, most_size: most, same_label: same }, labels) {
  const values = { labels, share: percent(Math.floor(interval[0] * 100) / 100), sets: number(sets), least: number(least), most: number(most) };
  if (same) return t("set.like.label", values);
  if (most === null) return t("set.like.from", values);
  if (most > least) return t("set.like.range", values);
  return t(most === 1 ? "set.like.one" : "set.like.size", values);
}

function familiarityText(familiarity) {
  if (!familiarity) return t("familiar.none", { classes: number(state.manifest.labels.length) });
  const values = { score: rounded(familiarity.score), threshold: rounded(familiarity.threshold) };
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
