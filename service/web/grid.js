// The grid of several images: how doubtful each answer is, what is true, and all of it as a file.

import { button, download, el, fill } from "/web/dom.js";
import { selectImage, sortImages } from "/web/images.js";
import { nameOf, state } from "/web/state.js";
import { errorText, number, percent, t } from "/web/text.js";

const TRUTHS = { right: "✓", wrong: "✗" };
const COLUMNS = ["name", "label", "probability", "prediction_set", "familiar", "truth"];

/** Draws the grid into `place`; `pressed(index)` hears of a card that was chosen. */
export function drawGrid(place) {
  const sort = button(t("grid.sort"), () => sortImages(doubtOf));
  const table = button(t("grid.csv"), () => save("text/csv", "csv", csv()));
  const all = button(t("grid.json"), () => save("application/json", "json", JSON.stringify(state.images.map(entry), null, 1)));
  fill(place, el("ul", { class: "grid" }, state.images.map(card)), el("div", { class: "row tools" }, sort, table, all));
}

const isUnfamiliar = (answer) => answer.familiarity?.familiar === false;

/** The doubt of an answer as a number: unfamiliar images first, then large sets, then improbable answers; errors last. */
function doubtOf({ answer }) {
  if (!answer || answer.error) return -1;
  const { prediction_set: set, probability } = answer;
  return 2 * isUnfamiliar(answer) + (set ? 1 - 1 / Math.max(1, set.size) : 0) + (1 - probability) / 100;
}

function card(image, index) {
  const { url, name, answer, truth } = image;
  const content = [el("img", { src: url, alt: "" }), cardText(answer, name)];
  const attributes = { class: "card", "aria-pressed": String(index === state.selected) };
  const chosen = button(content, () => press(index, ".card"), attributes);
  const judged = answer && !answer.error;
  return el("li", { class: answer?.error ? "bad" : truth }, chosen, judged && el("div", { class: "truths" }, Object.entries(TRUTHS).map(judgement)));

  function judgement([value, sign]) {
    const set = () => {
      image.truth = truth === value ? undefined : value;
      press(index, `.truths [data-truth=${value}]`);
    };
    const label = t(`grid.${value}`, { name });
    return button(sign, set, { class: "plain", "aria-label": label, title: label, "aria-pressed": String(truth === value), "data-truth": value });
  }
}

/** Shows the image at `index`; its card is drawn anew, and the part of it that was pressed gets the focus back. */
function press(index, part) {
  selectImage(index);
  document.querySelector(`#try .grid li:nth-child(${index + 1}) ${part}`)?.focus();
}

function cardText(answer, name) {
  if (answer === null) return el("span", { class: "quiet" }, t("try.waiting"));
  if (answer.error) return el("span", { class: "failure" }, el("b", {}, name), " ", errorText({ problem: answer.error }).title);
  const doubt = doubtText(answer);
  return el("span", {}, el("b", {}, nameOf(answer.index)), " ", percent(answer.probability), doubt && el("em", { class: "doubt" }, doubt));
}

function doubtText({ prediction_set: set, ...answer }) {
  if (isUnfamiliar(answer)) return t("grid.unfamiliar");
  return set && set.size !== 1 && t("grid.several", { count: number(set.size) });
}

/** An image's answer with the visitor's judgement and the explanations that were asked for. */
const entry = ({ name, answer, truth = null, explanations = {} }) => ({ name, truth, answer, explanations });

function csv() {
  const rows = state.images.filter(({ answer }) => answer && !answer.error);
  const line = ({ name, answer, truth }) => [
    name,
    nameOf(answer.index),
    answer.probability,
    answer.prediction_set?.labels.join("; "),
    answer.familiarity?.familiar,
    truth,
  ];
  return [COLUMNS, ...rows.map(line)].map((values) => values.map(quoted).join(",")).join("\r\n");
}

/** A value of a CSV file (RFC 4180); one that a spreadsheet would run as a formula stays a text. */
function quoted(value) {
  const text = String(value ?? "");
  return `"${(/^[=+\-@]/.test(text) ? `'${text}` : text).replaceAll('"', '""')}"`;
}

const save = (type, ending, text) => download(new Blob([text], { type }), `candor-${state.manifest.name}.${ending}`);
