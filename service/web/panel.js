// The map of one method: its description, colours, legend and quality, and downloads.

import { contentType, explain, query } from "/web/api.js";
import { button, download, el, fill, labelled, select } from "/web/dom.js";
import { hasKey } from "/web/key.js";
import { colourBar, decodeMap, gathered, overlay, show, strengths, strongestNinth } from "/web/map.js";
import { code, errorNotice, paragraph } from "/web/parts.js";
import { sentences } from "/web/quality.js";
import { ofModel, state } from "/web/state.js";
import { duration, errorText, number, percent, rounded, t, translated } from "/web/text.js";

/** The description of a method as a sentence; English where the language has none of its own. */
export function describe({ name, description }) {
  const text = translated(`description.${name}`, description);
  return /[.。]$/.test(text) ? text : `${text[0].toUpperCase()}${text.slice(1)}.`;
}

const titleOf = (name) => state.methods.find((method) => method.name === name)?.title ?? name;

/** A map of `image`, on `drawn`, the image on a canvas.
 *
 * `tab` gives the question and the look, and hears of changes: {question, look, onMap, onMethod, onRemove}.
 */
export class Panel {
  constructor(image, drawn, tab) {
    Object.assign(this, { image, drawn, tab, parameters: {}, map: null, explanation: null });
    this.picker = select(state.methods.map(({ name, title }) => [name, title]), "", (name) => this.#pick(name));
    this.removeButton = button("×", () => tab.onRemove(), { class: "plain", "aria-label": t("panel.remove") });
    this.description = el("p", { class: "meaning" });
    this.canvas = el("canvas", { role: "img", "aria-label": t("try.waiting") });
    this.findings = el("div", { class: "findings" });
    this.status = el("p", { class: "visually-hidden", role: "status" });
    const head = el("div", { class: "row head" }, labelled(t("panel.method"), this.picker), this.removeButton);
    this.node = el("article", { class: "panel" }, head, this.description, this.canvas, this.findings, this.status);
    this.#clearCanvas();
  }

  /** Sets the method and its parameters; `request` then gets its map. */
  setMethod(name, parameters = {}) {
    this.method = state.methods.find((method) => method.name === name);
    this.parameters = { ...parameters };
    this.picker.value = name;
    this.description.textContent = describe(this.method);
  }

  #pick(name) {
    this.setMethod(name);
    this.tab.onMethod();
    this.request();
  }

  /** Hides the button that removes the panel if it is the only one. */
  setAlone(alone) {
    this.removeButton.hidden = alone;
  }

  /** Cancels the request in flight. */
  cancel() {
    this.controller?.abort();
  }

  /** The parameters of the request. */
  query() {
    return { method: this.method.name, ...this.tab.question().query, ...this.parameters };
  }

  /** Requests the map, and shows it. */
  async request() {
    this.cancel();
    const controller = (this.controller = new AbortController());
    this.node.setAttribute("aria-busy", "true");
    try {
      const answer = await explain(this.image.blob, { ...this.query(), map: "array" }, "application/json", controller.signal);
      if (controller === this.controller) this.#showAnswer(answer);
    } catch (error) {
      if (controller === this.controller) this.#showError(error);
    }
    if (controller === this.controller) this.node.removeAttribute("aria-busy");
  }

  #showAnswer(answer) {
    this.explanation = answer.explanation;
    (this.image.explanations ??= {})[this.method.name] = answer.explanation;
    this.map = decodeMap(answer.explanation.map);
    this.milliseconds = answer.timing_ms.explain;
    this.paint();
    this.#showFindings();
    this.status.textContent = this.#summary();
    this.tab.onMap();
  }

  #showError(error) {
    if (error.name === "AbortError") return;
    this.map = this.explanation = null;
    this.#clearCanvas();
    this.canvas.setAttribute("aria-label", errorText(error).title);
    fill(this.findings, errorNotice(error, null, () => this.request()), this.#parameters());
    this.tab.onMap();
  }

  #clearCanvas() {
    show(this.canvas, this.drawn.canvas, this.drawn.canvas, 0);
  }

  /** Draws the map again, after a change of the look. */
  paint() {
    if (this.map === null) return;
    const { limit, colours, cell } = this.explanation.map;
    const { opacity, visible } = this.tab.look;
    const [values, shape] = gathered(this.map.values, this.map.shape, cell);
    const strength = strengths(values, limit, colours, visible);
    show(this.canvas, this.drawn.canvas, overlay(this.drawn, strength, shape, colours), opacity);
    this.canvas.setAttribute("aria-label", this.#summary());
  }

  #summary() {
    return `${this.method.title}: ${this.#place()}`;
  }

  #place() {
    const strongest = strongestNinth(this.map.values, this.map.shape);
    if (strongest === null) return t("panel.no-support");
    return t("panel.place", { place: t(`place.${strongest.ninth}`), share: percent(strongest.share) });
  }

  #showFindings() {
    const place = paragraph(this.#place(), "place");
    fill(this.findings, this.#legend(), this.#degraded(), this.#warnings(), place, this.#quality(), this.#parameters(), this.#downloads());
  }

  #legend() {
    const { limit, colours, unit, cell } = this.explanation.map;
    if (limit === 0) return paragraph(t("legend.zero"), "quiet");
    const bar = colourBar(colours);
    bar.setAttribute("aria-hidden", "true");
    const labels = colours === "diverging" ? this.#bothSides(limit) : [ends("0", rounded(limit)), this.#hiddenSide()];
    return el("div", { class: "legend" }, bar, labels, paragraph(t("legend.unit", { unit: translated(`unit.${unit}`, unit) })), cell > 1 && paragraph(t("legend.cell", { cell: number(cell, 0) })));
  }

  #bothSides(limit) {
    return [ends(rounded(-limit, true), "0", rounded(limit, true)), ends(t("legend.against"), t("legend.for"))];
  }

  #hiddenSide() {
    return this.map.values.some((value) => value < 0) ? paragraph(t("legend.hidden")) : null;
  }

  #degraded() {
    const requested = this.explanation.degraded_from;
    if (!requested) return null;
    const values = { requested: titleOf(requested.method), given: titleOf(this.explanation.method) };
    return paragraph(t("panel.degraded", values), "notice");
  }

  /** What the map's own measures say against it, before anything is read from it. */
  #warnings() {
    const { warnings } = this.explanation;
    return warnings.length > 0 ? paragraph(`${t("panel.noise")} ${warnings.join("; ")}.`, "notice") : null;
  }

  #quality() {
    const item = ({ tone, text }) => el("li", { class: tone }, el("b", {}, t(`tone.${tone}`)), " ", text);
    const list = el("ul", {}, sentences(this.explanation).map(item));
    const caution = translated(`beware.${this.method.name}`, null);
    return el("div", { class: "quality" }, el("h3", {}, t("quality.title")), list, caution && paragraph(caution, "quiet"));
  }

  #parameters() {
    const { source, forward_passes: passes, parameters } = this.method;
    // One choice is none: a model may have one layer.
    const free = parameters.filter(({ choices }) => choices?.length !== 1);
    const fields = free.map((parameter) => this.#field(parameter));
    const cost = t("panel.cost", { passes: number(passes, 0), time: duration(this.milliseconds) });
    return el("details", {}, el("summary", {}, t("panel.parameters")), paragraph(`${cost} ${source}.`, "quiet"), fields);
  }

  #field({ name, description, default: initial, choices, minimum, maximum }) {
    const change = (value) => {
      this.parameters = { ...this.parameters, [name]: value };
      this.tab.onMethod();
      this.request();
    };
    const value = this.parameters[name] ?? initial;
    const whole = Number.isInteger(initial) && maximum > 1;
    const attributes = { type: "number", min: minimum, max: maximum, step: whole ? 1 : "any", value };
    const control = choices
      ? select(choices.map((choice) => [choice, choice]), value, change)
      : el("input", { ...attributes, onchange: (event) => change(event.target.value) });
    return el("div", { class: "parameter" }, labelled(name, control), paragraph(description, "quiet"));
  }

  /** The overlay and the map as files, and the request as a command. */
  #downloads() {
    const { file, name } = this.image;
    const stem = `${name.replace(/\.\w+$/, "")}-${this.method.name}`;
    const overlayFile = this.#downloadButton(t("panel.overlay"), "image/png", `${stem}.png`);
    const mapFile = this.#downloadButton(t("panel.map"), "application/x-npy", `${stem}.npy`);
    const command = code(curlCommand(file, name, this.query()));
    const copyButton = button(t("panel.copy"), () => copy(command, copyButton));
    const same = el("details", {}, el("summary", {}, t("panel.curl")), command, copyButton);
    return el("div", { class: "downloads" }, el("div", { class: "row" }, overlayFile, mapFile), same, el("div", { class: "failed" }));
  }

  #downloadButton(text, kind, name) {
    const query = kind === "image/png" ? { ...this.query(), legend: true } : this.query();
    return button(text, async (event) => {
      const failure = event.target.closest(".downloads").querySelector(".failed");
      try {
        download(await explain(this.image.blob, query, kind), name);
        fill(failure);
      } catch (error) {
        fill(failure, errorNotice(error));
      }
    });
  }
}

const ends = (...texts) => el("p", { class: "ends" }, texts.map((text) => el("span", {}, text)));

async function copy(command, copyButton) {
  try {
    await navigator.clipboard.writeText(command.textContent);
    copyButton.textContent = t("panel.copied");
  } catch {
    getSelection().selectAllChildren(command); // without permission the visitor copies the selection
  }
}

/** The shell command of an explanation. */
function curlCommand(blob, name, parameters) {
  const file = name.replaceAll("'", "'\\''");
  return [
    `curl -s --data-binary '@${file}' -H 'Content-Type: ${contentType(blob)}'`,
    ...(hasKey() ? ['  -H "Authorization: Bearer $KEY"'] : []),
    `  '${location.origin}${ofModel("/explain")}?${query(parameters)}'`,
  ].join(" \\\n");
}
