// One method's map of the picture: what it says, the colours with their legend, how good it is, and how to take it along.

import { curl, explain } from "/web/api.js";
import { button, el, fill, labelled, save, select } from "/web/dom.js";
import { bar, decode, focus, overlay, show, strengths } from "/web/map.js";
import { code, trouble, words } from "/web/parts.js";
import { sentences } from "/web/quality.js";
import { state } from "/web/state.js";
import { duration, figure, or, percent, t } from "/web/text.js";

/** What a method says of itself, as a sentence. */
export function says({ name, says: sentence }) {
  const text = or(`say.${name}`, sentence);
  return /[.。]$/.test(text) ? text : `${text[0].toUpperCase()}${text.slice(1)}.`;
}

/** A map of the picture `looked` on its `ground`; `around` gives the question and the look, and is told what changes. */
export class Panel {
  constructor(looked, ground, around) {
    Object.assign(this, { looked, ground, around, parameters: {}, map: null, explanation: null });
    this.picker = select(state.methods.map((method) => [method.name, method.title]), "", (name) => this.#picked(name));
    this.remove = button("×", () => around.gone(), { class: "plain", "aria-label": t("panel.remove") });
    this.sentence = el("p", { class: "sense" });
    this.canvas = el("canvas", { role: "img", "aria-label": t("try.waiting") });
    this.told = el("div", { class: "told" });
    this.status = el("p", { class: "heard", role: "status" });
    const head = el("div", { class: "row head" }, labelled(t("panel.method"), this.picker), this.remove);
    this.node = el("article", { class: "panel" }, head, this.sentence, this.canvas, this.told, this.status);
    show(this.canvas, ground.canvas, ground.canvas, 0);
  }

  /** Takes the method called `name`. */
  choose(name) {
    this.method = state.methods.find((method) => method.name === name);
    this.parameters = {};
    this.picker.value = name;
    this.sentence.textContent = says(this.method);
  }

  #picked(name) {
    this.choose(name);
    this.around.chose();
    this.ask();
  }

  /** Whether there is no other panel: then this one stays. */
  alone(yes) {
    this.remove.hidden = yes;
  }

  /** Gives up what is being asked. */
  stop() {
    this.asking?.abort();
  }

  /** What is asked of the service. */
  asked() {
    return { method: this.method.name, ...this.around.question().query, ...this.parameters };
  }

  /** Asks for the map, and shows it. */
  async ask() {
    this.stop();
    const mine = (this.asking = new AbortController());
    this.node.setAttribute("aria-busy", "true");
    try {
      const answer = await explain(this.looked.blob, { ...this.asked(), map: "array" }, "application/json", mine.signal);
      if (mine === this.asking) this.#take(answer);
    } catch (error) {
      if (mine === this.asking) this.#fail(error);
    }
    if (mine === this.asking) this.node.removeAttribute("aria-busy");
  }

  #take(answer) {
    this.explanation = answer.explanation;
    this.map = decode(answer.explanation.map);
    this.milliseconds = answer.timing_ms.explain;
    this.paint();
    this.#tell();
    this.status.textContent = `${this.method.title}: ${this.#where()}`;
    this.around.changed();
  }

  #fail(error) {
    if (error.name === "AbortError") return;
    this.map = this.explanation = null;
    show(this.canvas, this.ground.canvas, this.ground.canvas, 0);
    this.canvas.setAttribute("aria-label", error.message);
    fill(this.told, trouble(error.message), this.#parameters());
    this.around.changed();
  }

  /** Draws the map again: opacity or the sides that are shown have changed. */
  paint() {
    if (this.map === null) return;
    const { limit, colours } = this.explanation.map;
    const { opacity, shown } = this.around.look;
    const strength = strengths(this.map.values, limit, colours, shown);
    show(this.canvas, this.ground.canvas, overlay(this.ground, strength, this.map.side, colours), opacity);
    this.canvas.setAttribute("aria-label", `${this.method.title}: ${this.#where()}`);
  }

  #where() {
    const most = focus(this.map.values, this.map.side);
    if (most === null) return t("panel.no-evidence");
    return t("panel.where", { place: t(`place.${most.ninth}`), share: percent(most.share) });
  }

  #tell() {
    const where = words(this.#where(), "where");
    fill(this.told, this.#legend(), this.#degraded(), where, this.#quality(), this.#parameters(), this.#along());
  }

  #legend() {
    const { limit, colours, unit } = this.explanation.map;
    if (limit === 0) return words(t("legend.zero"), "quiet");
    const strip = bar(colours);
    strip.setAttribute("aria-hidden", "true");
    const scale = colours === "diverging" ? this.#sides(limit) : [ends("0", figure(limit)), this.#hidden()];
    return el("div", { class: "legend" }, strip, scale, words(t("legend.unit", { unit: or(`unit.${unit}`, unit) })));
  }

  #sides(limit) {
    return [ends(figure(-limit, true), "0", figure(limit, true)), ends(t("legend.against"), t("legend.for"))];
  }

  #hidden() {
    return this.map.values.some((value) => value < 0) ? words(t("legend.hidden")) : null;
  }

  #degraded() {
    const asked = this.explanation.degraded_from;
    if (!asked) return null;
    const title = (name) => state.methods.find((method) => method.name === name)?.title ?? name;
    return words(t("panel.degraded", { asked: title(asked.method), given: title(this.explanation.method) }), "notice");
  }

  #quality() {
    const one = ({ tone, text }) => el("li", { class: tone }, el("b", {}, t(`tone.${tone}`)), " ", text);
    const list = el("ul", {}, sentences(this.explanation.quality).map(one));
    const beware = or(`beware.${this.method.name}`, null);
    return el("div", { class: "quality" }, el("h3", {}, t("quality.title")), list, beware && words(beware, "quiet"));
  }

  #parameters() {
    const { source, forward_passes: passes, parameters } = this.method;
    const fields = parameters.map((parameter) => this.#field(parameter));
    const cost = t("panel.cost", { passes: figure(passes), time: duration(this.milliseconds) });
    return el("details", {}, el("summary", {}, t("panel.parameters")), words(`${cost} ${source}.`, "quiet"), fields);
  }

  #field({ name, says: help, default: usual, choices, minimum, maximum }) {
    const change = (value) => {
      this.parameters[name] = value;
      this.ask();
    };
    const used = this.parameters[name] ?? usual;
    const whole = Number.isInteger(usual) && maximum > 1;
    const limits = { type: "number", min: minimum, max: maximum, step: whole ? 1 : "any", value: used };
    const control = choices
      ? select(choices.map((choice) => [choice, choice]), used, change)
      : el("input", { ...limits, onchange: (event) => change(event.target.value) });
    return el("div", { class: "parameter" }, labelled(name, control), words(help, "quiet"));
  }

  /** What a person may take along: the overlay, the map, the request. */
  #along() {
    const { blob, name } = this.looked;
    const stem = `${name.replace(/\.\w+$/, "")}-${this.method.name}`;
    const overlay = this.#download(t("panel.overlay"), "image/png", `${stem}.png`);
    const values = this.#download(t("panel.map"), "application/x-npy", `${stem}.npy`);
    const command = code(curl(blob, name, this.asked()));
    const copy = button(t("panel.copy"), () => copied(copy, command));
    const same = el("details", {}, el("summary", {}, t("panel.curl")), command, copy);
    return el("div", { class: "take" }, el("div", { class: "row" }, overlay, values), same);
  }

  #download(text, kind, name) {
    const question = kind === "image/png" ? { ...this.asked(), legend: true } : this.asked();
    return button(text, async (event) => {
      try {
        save(await explain(this.looked.blob, question, kind), name);
      } catch (error) {
        event.target.closest(".take").append(trouble(error.message));
      }
    });
  }
}

const ends = (...texts) => el("p", { class: "ends" }, texts.map((text) => el("span", {}, text)));

async function copied(copy, command) {
  try {
    await navigator.clipboard.writeText(command.textContent);
    copy.textContent = t("panel.copied");
  } catch {
    getSelection().selectAllChildren(command); // without permission: marked, ready to be copied
  }
}
