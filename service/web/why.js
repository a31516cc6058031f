// Why: up to three maps of one picture side by side, for a class of one's choice, and a brush that puts them to the test.

import { button, check, el, fill, labelled, select } from "/web/dom.js";
import { ground } from "/web/map.js";
import { Panel } from "/web/panel.js";
import { title, trouble, words } from "/web/parts.js";
import { listen, samples } from "/web/pictures.js";
import { Probe } from "/web/probe.js";
import { shot, state } from "/web/state.js";
import { figure, percent, t } from "/web/text.js";

const MOST = 3; // side by side
const FIRST = ["integrated_gradients", "grad_cam", "occlusion"];
/** What was chosen, kept while pictures come and go. */
const chosen = { methods: null, target: "", against: "", opacity: 0.85, shown: { favour: true, against: true }, quality: "basic" };
const parts = {};
let panels = [];
let root = null;
let drawn = null; // the picture that the tab shows, with its answer
let last = null; // the picture that the classes were chosen for

listen(() => root && !root.hidden && enter());

/** Draws the tab into `place`. */
export function draw(place) {
  root = place;
  drawn = null;
}

/** Called when the tab is opened: shows the picture of the moment. */
export function enter() {
  const looked = shot();
  const now = looked && { url: looked.url, answer: looked.answer };
  if (drawn && now && drawn.url === now.url && drawn.answer === now.answer) return;
  drawn = now ?? {};
  panels.forEach((panel) => panel.stop());
  panels = [];
  if (looked?.answer && !looked.answer.error) explained(looked);
  else fill(root, title(t("why.title"), t(looked?.answer === null ? "try.waiting" : "why.empty")), samples());
}

async function explained(looked) {
  const on = await ground(looked.blob, state.manifest.input).catch(() => null);
  if (drawn.url !== looked.url) return;
  if (on === null) {
    fill(root, title(t("why.title"), t("why.lead")), trouble(t("why.undrawable")));
    return;
  }
  if (last !== looked.url) Object.assign(chosen, { target: "", against: "" });
  last = looked.url;
  chosen.methods ??= preferred().slice(0, 1);
  parts.panels = el("div", { class: "panels" });
  parts.more = button(t("why.compare"), more);
  parts.probe = new Probe(on, looked, () => panels, question);
  parts.question = el("p", { class: "question", "aria-live": "polite" });
  panels = chosen.methods.map((method) => panel(method, looked, on));
  const head = title(t("why.title"), t("why.lead"));
  const caveat = words(t("why.caveat"), "caveat");
  fill(root, head, controls(looked), parts.question, parts.panels, nearest(looked), caveat, parts.probe.node);
  arrange();
  again();
}

/** Methods of this model, those first that say most to someone new. */
function preferred() {
  const names = state.methods.map((method) => method.name);
  return [...FIRST.filter((name) => names.includes(name)), ...names.filter((name) => !FIRST.includes(name))];
}

function panel(method, looked, on) {
  const around = { question, look: chosen, changed: () => parts.probe.compare(), chose: remember, gone: () => less(made) };
  const made = new Panel(looked, on, around);
  made.choose(method);
  return made;
}

function more() {
  const method = preferred().find((name) => !panels.some((other) => other.method.name === name)) ?? preferred()[0];
  const added = panel(method, panels[0].looked, panels[0].ground);
  panels.push(added);
  remember();
  arrange();
  added.ask();
  added.picker.focus();
}

function less(gone) {
  gone.stop();
  panels = panels.filter((other) => other !== gone);
  remember();
  arrange();
  parts.probe.compare();
  parts.more.focus();
}

function remember() {
  chosen.methods = panels.map((each) => each.method.name);
}

function arrange() {
  panels.forEach((each) => each.alone(panels.length === 1));
  parts.panels.dataset.count = panels.length;
  fill(parts.panels, panels.map((each) => each.node));
  parts.more.disabled = panels.length >= MOST;
}

/** Asks everything again: the question has changed. */
function again() {
  const names = { label: named(target(), true), other: chosen.against === "" ? "" : named(Number(chosen.against), true) };
  parts.question.textContent = t(chosen.against === "" ? "why.question" : "why.contrast", names);
  panels.forEach((each) => each.ask());
  parts.probe.clear();
}

const repaint = () => panels.forEach((each) => each.paint());
const target = () => (chosen.target === "" ? drawn.answer.index : Number(chosen.target));

/** The part of a request that all panels share, and the classes that it is about. */
function question() {
  const index = target();
  const against = chosen.against === "" ? null : Number(chosen.against);
  const asked = against === null ? named(index) : `${plain(index)},${plain(against)}`;
  return { index, against, query: { target: asked, quality: chosen.quality } };
}

const named = (index) => state.manifest.labels[index];

/** A class in a pair: by its index where its label would not survive the comma. */
function plain(index) {
  const label = named(index);
  return label.includes(",") || label.trim() !== label ? index : label;
}

function controls(looked) {
  const full = check(t("why.full"), chosen.quality === "full", (on) => set({ quality: on ? "full" : "basic" }));
  return el(
    "div",
    { class: "controls" },
    el("div", { class: "row" }, targets(looked), rivals(looked), parts.more),
    el("div", { class: "row" }, opacity(), sides(), full),
  );
}

function set(change) {
  Object.assign(chosen, change);
  again();
}

function classes(looked) {
  const share = new Map(looked.answer.top.map((entry) => [entry.index, entry.probability]));
  const order = [...share.keys(), ...state.manifest.labels.keys()].filter((index, at, all) => all.indexOf(index) === at);
  return order.map((index) => [String(index), share.has(index) ? `${named(index)} (${percent(share.get(index))})` : named(index)]);
}

function targets(looked) {
  const first = ["", t("why.predicted", { label: looked.answer.label })];
  const change = (target) => set({ target, ...cleared(target, chosen.against) });
  return labelled(t("why.target"), select([first, ...classes(looked)], chosen.target, change, { id: "target" }));
}

function rivals(looked) {
  const first = ["", t("why.nothing")];
  const change = (against) => set(cleared(chosen.target, against));
  return labelled(t("why.against"), select([first, ...classes(looked)], chosen.against, change, { id: "against" }));
}

/** A class is not compared with itself: the comparison is dropped, and its list says so. */
function cleared(target, against) {
  const index = target === "" ? drawn.answer.index : Number(target);
  const kept = against !== "" && Number(against) === index ? "" : against;
  const list = document.getElementById("against");
  if (list.value !== kept) list.value = kept;
  return { against: kept };
}

function opacity() {
  const oninput = (event) => {
    chosen.opacity = Number(event.target.value);
    repaint();
  };
  return labelled(t("why.opacity"), el("input", { type: "range", min: 0, max: 1, step: 0.05, value: chosen.opacity, oninput }));
}

function sides() {
  const side = (name) =>
    check(t(`side.${name}`), chosen.shown[name], (on) => {
      chosen.shown[name] = on;
      repaint();
    });
  return el("fieldset", { class: "row" }, el("legend", {}, t("why.shown")), side("favour"), side("against"));
}

/** The nearest reference examples, where the bundle has them: they help people more than maps do. */
function nearest({ answer }) {
  const found = answer.nearest ?? [];
  if (found.length === 0) return null;
  const where = ({ name, distance }) => ` ${t("why.nearest.one", { name, distance: figure(distance) })}`;
  const image = ({ picture, name }) => picture && el("img", { src: picture, alt: name });
  const one = (example) => el("li", {}, image(example), el("b", {}, example.label), where(example));
  return el("section", { class: "nearest" }, el("h2", {}, t("why.nearest")), el("ol", {}, found.map(one)));
}
