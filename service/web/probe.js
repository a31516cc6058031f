// The test of a map: the visitor brushes over a region, the mean colour replaces it, and the service
// predicts again.

import { predict } from "/web/api.js";
import { button, debounced, el, fill, labelled } from "/web/dom.js";
import { emptyCanvas } from "/web/map.js";
import { bars, errorNotice, paragraph } from "/web/parts.js";
import { inRequest, nameOf, state } from "/web/state.js";
import { percent, rounded, t } from "/web/text.js";

const TENTH = 0.1; // of the cells, for "the strongest tenth"
const STEP = 1 / 24; // of the image's side, for an arrow key
const WAIT = 250; // milliseconds without a stroke before the request

/** A brush on `drawn`, the image on a canvas; `panels` and `question` are functions of the tab. */
export class Probe {
  constructor(drawn, panels, question) {
    Object.assign(this, { drawn, panels, question, size: 0.12, position: { x: 0.5, y: 0.5 }, before: null, after: null });
    const { width, height } = drawn.canvas;
    this.mask = emptyCanvas(width, height);
    this.brush = this.mask.getContext("2d", { willReadFrequently: true });
    const aria = { role: "application", "aria-label": t("probe.canvas"), "aria-describedby": "probe-help" };
    this.canvas = el("canvas", { width, height, tabindex: 0, ...aria });
    this.result = el("div", { class: "result", "aria-live": "polite" });
    this.request = debounced(() => this.#request(), WAIT);
    const stage = el("div", { class: "stage" }, el("div", {}, this.canvas, this.#tools()), this.result);
    this.node = el("section", { class: "probe", "aria-labelledby": "probe-title" }, this.#head(), stage);
    this.#connectPointer();
    this.canvas.addEventListener("keydown", (event) => this.#onKey(event));
    for (const name of ["focus", "blur"]) this.canvas.addEventListener(name, () => this.#draw());
    this.#draw();
  }

  #head() {
    return [el("h2", { id: "probe-title" }, t("probe.title")), el("p", { class: "lead", id: "probe-help" }, t("probe.lead"))];
  }

  #tools() {
    const oninput = (event) => (this.size = Number(event.target.value));
    const size = el("input", { type: "range", min: 0.04, max: 0.4, step: 0.02, value: this.size, oninput });
    const strongest = button(t("probe.strongest"), () => this.brushStrongest());
    return el("div", { class: "row" }, labelled(t("probe.size"), size), strongest, button(t("probe.clear"), () => this.clear()));
  }

  /** Removes the strokes and the result. */
  clear() {
    this.brush.clearRect(0, 0, this.mask.width, this.mask.height);
    this.after = null;
    this.controller?.abort();
    this.node.removeAttribute("aria-busy");
    fill(this.result, paragraph(t("probe.nothing"), "quiet"));
    this.#draw();
  }

  /** Brushes the tenth of the network's view with the most support in the first map. */
  brushStrongest() {
    const map = this.panels()[0]?.map;
    if (!map) return;
    this.clear();
    const order = [...map.values.keys()].sort((a, b) => map.values[b] - map.values[a]);
    for (const cell of order.slice(0, Math.ceil(TENTH * order.length))) this.#brushCell(cell, map.shape);
    this.#onStroke();
  }

  #brushCell(cell, [rows, columns]) {
    const { left, top, right, bottom } = this.drawn.box;
    const [width, height] = [(right - left) / columns, (bottom - top) / rows];
    const [x, y] = [left + (cell % columns) * width, top + Math.floor(cell / columns) * height];
    this.brush.fillRect(Math.floor(x), Math.floor(y), Math.ceil(width), Math.ceil(height));
  }

  #connectPointer() {
    let painting = false;
    const move = (event) => {
      const box = this.canvas.getBoundingClientRect();
      this.position = { x: (event.clientX - box.left) / box.width, y: (event.clientY - box.top) / box.height };
      if (painting) this.#paint();
      else this.#draw();
    };
    this.canvas.addEventListener("pointerdown", (event) => {
      painting = true;
      this.canvas.setPointerCapture(event.pointerId);
      move(event);
    });
    this.canvas.addEventListener("pointermove", move);
    for (const end of ["pointerup", "pointercancel"]) this.canvas.addEventListener(end, () => (painting = false));
    this.canvas.addEventListener("pointerleave", () => this.#draw());
  }

  #onKey(event) {
    const moves = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] };
    if (event.key in moves) {
      const [x, y] = moves[event.key];
      this.position = { x: clamped(this.position.x + x), y: clamped(this.position.y + y) };
      this.#draw();
    } else if (event.key === " " || event.key === "Enter") this.#paint();
    else if (event.key === "Delete" || event.key === "Backspace") this.clear();
    else return;
    event.preventDefault();
  }

  #paint() {
    this.#circle(this.brush);
    this.brush.fill();
    this.#onStroke();
  }

  #onStroke() {
    this.#draw();
    this.node.setAttribute("aria-busy", "true");
    this.request();
  }

  /** The image with the mean colour in the place of the strokes. */
  #changedImage() {
    const { width, height } = this.mask;
    const canvas = emptyCanvas(width, height);
    const context = canvas.getContext("2d");
    context.drawImage(this.mask, 0, 0);
    context.globalCompositeOperation = "source-in";
    context.fillStyle = `rgb(${state.manifest.input.mean.map((value) => Math.round(255 * value)).join(" ")})`;
    context.fillRect(0, 0, width, height);
    context.globalCompositeOperation = "destination-over";
    context.drawImage(this.drawn.canvas, 0, 0);
    return canvas;
  }

  #draw() {
    const context = this.canvas.getContext("2d");
    context.drawImage(this.#changedImage(), 0, 0);
    const focused = document.activeElement === this.canvas;
    if (!focused && !this.canvas.matches(":hover")) return;
    // White on black is visible on any image.
    for (const [colour, width] of [["black", 3], ["white", 1.5]]) {
      context.strokeStyle = colour;
      context.lineWidth = width;
      this.#circle(context);
      context.stroke();
    }
  }

  #circle(context) {
    const radius = (this.size * Math.min(this.canvas.width, this.canvas.height)) / 2;
    context.beginPath();
    context.arc(this.position.x * this.mask.width, this.position.y * this.mask.height, radius, 0, 2 * Math.PI);
  }

  async #request() {
    this.controller?.abort();
    const controller = (this.controller = new AbortController());
    const { index, against } = this.question();
    const asked = { top_k: 1, classes: [index, ...(against === null ? [] : [against])].map((each) => inRequest(each, true)).join(",") };
    try {
      // Both are PNG files of the same canvas, so that the brush makes the only difference.
      if (this.asked !== asked.classes) this.before = null;
      this.asked = asked.classes;
      this.before ??= await predict(await pngOf(this.drawn.canvas), asked, controller.signal);
      this.after = await predict(await pngOf(this.#changedImage()), asked, controller.signal);
      if (controller === this.controller) this.compare();
    } catch (error) {
      if (error.name !== "AbortError") fill(this.result, errorNotice(error, null, () => this.#onStroke()));
    }
    if (controller === this.controller) this.node.removeAttribute("aria-busy");
  }

  /** Shows the change of the prediction beside the claims of the maps. */
  compare() {
    if (this.after === null || this.before === null) return;
    const { index } = this.question();
    const [before, after] = [shareOf(this.before, index), shareOf(this.after, index)];
    const [target, label] = [nameOf(index), nameOf(this.after.index)];
    const { probability } = this.after;
    const now = t(this.after.index === this.before.index ? "probe.same" : "probe.now", { label, share: percent(probability) });
    const change = bars([[t("probe.before"), before], [t("probe.after"), after]], { "aria-label": target });
    fill(this.result, el("h3", {}, t("probe.fact", { label: target })), change, paragraph(now), this.#contrast(), this.#claims(before));
  }

  #claims(before) {
    const explained = this.panels().filter((panel) => panel.map);
    const area = mean(coverage(this.mask, this.drawn.box, explained[0]?.map.shape ?? [1, 1]));
    const list = el("ul", { class: "claims" }, explained.map((panel) => this.#claim(panel, before)));
    return [el("h3", {}, t("probe.claims")), paragraph(t("probe.area", { share: percent(area) }), "quiet"), list];
  }

  /** The change of the difference of two logits, which the map of a contrast is about. */
  #contrast() {
    const { index, against } = this.question();
    if (against === null) return null;
    const difference = (answer) => answer.temperature * Math.log(shareOf(answer, index) / shareOf(answer, against));
    const names = { label: nameOf(index), other: nameOf(against) };
    return paragraph(t("probe.difference", { ...names, change: rounded(difference(this.after) - difference(this.before), true) }));
  }

  #claim({ method, map, explanation }, before) {
    const covered = coverage(this.mask, this.drawn.box, map.shape);
    const [all, brushed] = [sums(map.values, () => 1), sums(map.values, (at) => covered[at])];
    const part = all.support > 0 ? percent(brushed.support / all.support) : "–";
    const additive = "completeness_gap" in explanation.quality;
    const expected = expectedShare(before, brushed.total, this.before.temperature);
    const values = { part, change: rounded(-brushed.total, true), expected: percent(expected) };
    const kind = !additive ? "where" : this.question().against === null ? "amount" : "logits";
    return el("li", {}, el("b", {}, method.title), " ", t(`probe.claim.${kind}`, values));
  }
}

/** The probability after a fall of the target's logit, with all other logits and the temperature as before. */
function expectedShare(before, fall, temperature) {
  const share = Math.min(1 - 1e-9, Math.max(1e-9, before));
  return 1 / (1 + Math.exp(fall / temperature - Math.log(share / (1 - share))));
}

const clamped = (value) => Math.min(1, Math.max(0, value));
const shareOf = (answer, index) => answer.classes.find((entry) => entry.index === index).probability;
const mean = (values) => values.reduce((total, value) => total + value, 0) / values.length;
const pngOf = (canvas) => new Promise((resolve) => canvas.toBlob(resolve, "image/png"));

/** The weighted sums of all values, and of those that support the target. */
function sums(values, weight) {
  let [total, support] = [0, 0];
  values.forEach((value, at) => {
    total += value * weight(at);
    support += Math.max(0, value) * weight(at);
  });
  return { total, support };
}

/** The brushed share 0…1 of each cell of the network's view. */
function coverage(mask, { left, top, right, bottom }, [rows, columns]) {
  const data = mask.getContext("2d").getImageData(0, 0, mask.width, mask.height).data;
  const [brushed, all] = [new Float64Array(rows * columns), new Float64Array(rows * columns)];
  for (let y = 0; y < mask.height; y++) {
    const row = Math.floor(((y + 0.5 - top) * rows) / (bottom - top));
    for (let x = 0; x < mask.width; x++) {
      const column = Math.floor(((x + 0.5 - left) * columns) / (right - left));
      if (Math.min(column, row) < 0 || column >= columns || row >= rows) continue;
      all[row * columns + column] += 1;
      brushed[row * columns + column] += data[4 * (y * mask.width + x) + 3] / 255;
    }
  }
  return brushed.map((value, at) => (all[at] > 0 ? value / all[at] : 0));
}
