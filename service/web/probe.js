// The test of a map: brush over a region, it is replaced by the mean colour, and the service is asked what it thinks now.

import { predict } from "/web/api.js";
import { button, el, fill, labelled, settled } from "/web/dom.js";
import { blank } from "/web/map.js";
import { bars, trouble, words } from "/web/parts.js";
import { state } from "/web/state.js";
import { figure, percent, t } from "/web/text.js";

const TENTH = 0.1; // of the picture is brushed by "the strongest tenth"
const STEP = 1 / 24; // of the picture's side, an arrow key's
const WAIT = 250; // milliseconds of rest before the service is asked

/** A brush over the picture on `ground`; `panels` gives the maps that are put to the test, `question` the classes. */
export class Probe {
  constructor(ground, looked, panels, question) {
    Object.assign(this, { ground, looked, panels, question, size: 0.12, at: { x: 0.5, y: 0.5 }, before: null, after: null });
    const { width, height } = ground.canvas;
    this.mask = blank(width, height);
    this.brush = this.mask.getContext("2d", { willReadFrequently: true });
    const heard = { role: "application", "aria-label": t("probe.canvas"), "aria-describedby": "probe-help" };
    this.canvas = el("canvas", { width, height, tabindex: 0, ...heard });
    this.result = el("div", { class: "result", "aria-live": "polite" });
    this.ask = settled(() => this.#ask(), WAIT);
    const stage = el("div", { class: "stage" }, el("div", {}, this.canvas, this.#tools()), this.result);
    this.node = el("section", { class: "probe", "aria-labelledby": "probe-title" }, this.#head(), stage);
    this.#pointers();
    this.canvas.addEventListener("keydown", (event) => this.#key(event));
    for (const name of ["focus", "blur"]) this.canvas.addEventListener(name, () => this.#draw());
    this.#draw();
  }

  #head() {
    return [el("h2", { id: "probe-title" }, t("probe.title")), el("p", { class: "lead", id: "probe-help" }, t("probe.lead"))];
  }

  #tools() {
    const oninput = (event) => (this.size = Number(event.target.value));
    const size = el("input", { type: "range", min: 0.04, max: 0.4, step: 0.02, value: this.size, oninput });
    const strongest = button(t("probe.strongest"), () => this.strongest());
    return el("div", { class: "row" }, labelled(t("probe.size"), size), strongest, button(t("probe.clear"), () => this.clear()));
  }

  /** Takes the brush's traces away, and what was found out by them. */
  clear() {
    this.brush.clearRect(0, 0, this.mask.width, this.mask.height);
    this.after = null;
    this.asking?.abort();
    this.node.removeAttribute("aria-busy");
    fill(this.result, words(t("probe.nothing"), "quiet"));
    this.#draw();
  }

  /** Brushes the tenth of the network's view where the first map sees most for the target. */
  strongest() {
    const map = this.panels()[0]?.map;
    if (!map) return;
    this.clear();
    const order = [...map.values.keys()].sort((a, b) => map.values[b] - map.values[a]);
    for (const cell of order.slice(0, Math.ceil(TENTH * order.length))) this.#cover(cell, map.side);
    this.#brushed();
  }

  /** Brushes one cell of a map. */
  #cover(cell, side) {
    const { left, top, right, bottom } = this.ground.box;
    const [across, down] = [(right - left) / side, (bottom - top) / side];
    const [x, y] = [left + (cell % side) * across, top + Math.floor(cell / side) * down];
    this.brush.fillRect(Math.floor(x), Math.floor(y), Math.ceil(across), Math.ceil(down));
  }

  #pointers() {
    let painting = false;
    const move = (event) => {
      const box = this.canvas.getBoundingClientRect();
      this.at = { x: (event.clientX - box.left) / box.width, y: (event.clientY - box.top) / box.height };
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

  #key(event) {
    const moves = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] };
    if (event.key in moves) {
      const [x, y] = moves[event.key];
      this.at = { x: Math.min(1, Math.max(0, this.at.x + x)), y: Math.min(1, Math.max(0, this.at.y + y)) };
      this.#draw();
    } else if (event.key === " " || event.key === "Enter") this.#paint();
    else if (event.key === "Delete" || event.key === "Backspace") this.clear();
    else return;
    event.preventDefault();
  }

  #radius() {
    return (this.size * Math.min(this.canvas.width, this.canvas.height)) / 2;
  }

  #paint() {
    this.#circle(this.brush);
    this.brush.fill();
    this.#brushed();
  }

  #brushed() {
    this.#draw();
    this.node.setAttribute("aria-busy", "true");
    this.ask();
  }

  /** The picture with the mean colour where the brush was. */
  #replaced() {
    const { width, height } = this.mask;
    const sheet = blank(width, height);
    const context = sheet.getContext("2d");
    context.drawImage(this.mask, 0, 0);
    context.globalCompositeOperation = "source-in";
    context.fillStyle = `rgb(${state.manifest.input.mean.map((value) => Math.round(255 * value)).join(" ")})`;
    context.fillRect(0, 0, width, height);
    context.globalCompositeOperation = "destination-over";
    context.drawImage(this.ground.canvas, 0, 0);
    return sheet;
  }

  #draw() {
    const context = this.canvas.getContext("2d");
    context.drawImage(this.#replaced(), 0, 0);
    const focused = document.activeElement === this.canvas;
    if (!focused && !this.canvas.matches(":hover")) return;
    for (const [colour, width] of [["black", 3], ["white", 1.5]]) {
      context.strokeStyle = colour;
      context.lineWidth = width;
      this.#circle(context);
      context.stroke();
    }
  }

  #circle(context) {
    context.beginPath();
    context.arc(this.at.x * this.mask.width, this.at.y * this.mask.height, this.#radius(), 0, 2 * Math.PI);
  }

  /** Both pictures go the same way, as PNG files of this canvas, so that nothing but the brush makes the difference. */
  async #ask() {
    this.asking?.abort();
    const mine = (this.asking = new AbortController());
    const all = { top_k: state.manifest.labels.length };
    try {
      this.before ??= await predict(await png(this.ground.canvas), all, mine.signal);
      this.after = await predict(await png(this.#replaced()), all, mine.signal);
      if (mine === this.asking) this.compare();
    } catch (error) {
      if (error.name !== "AbortError") fill(this.result, trouble(error.message));
    }
    if (mine === this.asking) this.node.removeAttribute("aria-busy");
  }

  /** What happened, beside what each map claimed. */
  compare() {
    if (this.after === null || this.before === null) return;
    const { index } = this.question();
    const [was, is] = [share(this.before, index), share(this.after, index)];
    const name = state.manifest.labels[index];
    const { label, probability } = this.after;
    const now = t(this.after.index === this.before.index ? "probe.same" : "probe.now", { label, share: percent(probability) });
    const change = bars([[t("probe.before"), was], [t("probe.after"), is]], { "aria-label": name });
    fill(this.result, el("h3", {}, t("probe.fact", { label: name })), change, words(now), this.#contrast(), this.#claims(was));
  }

  #claims(was) {
    const explained = this.panels().filter((panel) => panel.map);
    const area = mean(coverage(this.mask, this.ground.box, explained[0]?.map.side ?? 1));
    const list = el("ul", { class: "claims" }, explained.map((panel) => this.#claim(panel, was)));
    return [el("h3", {}, t("probe.claims")), words(t("probe.area", { share: percent(area) }), "quiet"), list];
  }

  /** The change of the difference of two logits: what a contrast's map is about. */
  #contrast() {
    const { index, against } = this.question();
    if (against === null) return null;
    const difference = (answer) => answer.temperature * Math.log(share(answer, index) / share(answer, against));
    const names = { label: state.manifest.labels[index], other: state.manifest.labels[against] };
    return words(t("probe.difference", { ...names, fall: figure(difference(this.after) - difference(this.before), true) }));
  }

  #claim({ method, map, explanation }, was) {
    const covered = coverage(this.mask, this.ground.box, map.side);
    const [all, under] = [sum(map.values, () => 1), sum(map.values, (at) => covered[at])];
    const part = all.favour > 0 ? percent(under.favour / all.favour) : "–";
    const additive = "completeness_gap" in explanation.quality;
    const values = { part, fall: figure(-under.total, true), expected: percent(expected(was, under.total, this.before.temperature)) };
    const kind = !additive ? "where" : this.question().against === null ? "amount" : "logits";
    return el("li", {}, el("b", {}, method.title), " ", t(`probe.claim.${kind}`, values));
  }
}

/** The probability that is left if the target's logit falls by `fall` and all others, and the temperature, stay. */
function expected(was, fall, temperature) {
  const sure = Math.min(1 - 1e-9, Math.max(1e-9, was));
  return 1 / (1 + Math.exp(fall / temperature - Math.log(sure / (1 - sure))));
}

const share = (answer, index) => answer.top.find((entry) => entry.index === index).probability;
const mean = (values) => values.reduce((total, value) => total + value, 0) / values.length;
const png = (canvas) => new Promise((resolve) => canvas.toBlob(resolve, "image/png"));

function sum(values, weight) {
  let [total, favour] = [0, 0];
  values.forEach((value, at) => {
    total += value * weight(at);
    favour += Math.max(0, value) * weight(at);
  });
  return { total, favour };
}

/** How much of each cell of the network's view is brushed, 0…1. */
function coverage(mask, { left, top, right, bottom }, side) {
  const data = mask.getContext("2d").getImageData(0, 0, mask.width, mask.height).data;
  const [hit, all] = [new Float64Array(side * side), new Float64Array(side * side)];
  for (let y = 0; y < mask.height; y++) {
    const row = Math.floor(((y + 0.5 - top) * side) / (bottom - top));
    for (let x = 0; x < mask.width; x++) {
      const column = Math.floor(((x + 0.5 - left) * side) / (right - left));
      if (Math.min(column, row) < 0 || Math.max(column, row) >= side) continue;
      all[row * side + column] += 1;
      hit[row * side + column] += data[4 * (y * mask.width + x) + 3] / 255;
    }
  }
  return hit.map((value, at) => (all[at] > 0 ? value / all[at] : 0));
}
