// The tab Why: up to three maps of one image side by side, for any class, and the brush.

import { remember } from "/web/address.js";
import { showImage } from "/web/api.js";
import { classField } from "/web/classes.js";
import { loadColours } from "/web/colours.js";
import { button, checkBox, el, fill, labelled } from "/web/dom.js";
import { onImages, predictAgain, samples } from "/web/images.js";
import { drawImage } from "/web/map.js";
import { Panel } from "/web/panel.js";
import { alertNotice, errorNotice, heading, paragraph } from "/web/parts.js";
import { Probe } from "/web/probe.js";
import { inRequest, nameOf, selectedImage, state } from "/web/state.js";
import { rounded, t } from "/web/text.js";

const MAX_PANELS = 3;
const FIRST_METHODS = ["grad_cam", "attn_lrp", "integrated_gradients", "occlusion"];
/** The look of the maps, which holds for the next image, too. */
const look = { opacity: 1, visible: { favour: true, against: true } };
const parts = {};
let panels = [];
let root = null;
let shown = null; // {url, answer, question} of the image in the tab

onImages(() => root && !root.hidden && enter());

/** Draws the tab into `place`. */
export function draw(place) {
  root = place;
  shown = null;
}

/** Shows the selected image, whenever the tab is opened. */
export function enter() {
  const image = selectedImage();
  const next = image && { url: image.url, answer: image.answer, question: state.question };
  if (shown && next && Object.keys(next).every((key) => shown[key] === next[key])) return;
  shown = next ?? {};
  panels.forEach((panel) => panel.cancel());
  panels = [];
  if (image?.answer && !image.answer.error) showMaps(image);
  else if (image?.answer?.error) fill(root, heading(t("why.title"), t("why.lead")), errorNotice({ problem: image.answer.error }, t("try.failed", image), predictAgain));
  else fill(root, heading(t("why.title"), t(image?.answer === null ? "try.waiting" : "why.empty")), samples());
}

async function showMaps(image) {
  const expected = shown;
  const drawn = await prepared(image);
  if (drawn === null || shown !== expected) return;
  const { question: asked } = state;
  asked.against = allowedAgainst(asked.target, asked.against);
  parts.panels = el("div", { class: "panels" });
  parts.add = button(t("why.compare"), addPanel);
  parts.probe = new Probe(drawn, () => panels, question);
  parts.question = el("p", { class: "question", "aria-live": "polite" });
  const methods = asked.methods ?? [{ name: methodNames()[0] }];
  panels = methods.map((method) => newPanel(method, image, drawn));
  const head = heading(t("why.title"), t("why.lead"));
  const caveat = paragraph(t("why.caveat"), "caveat");
  const unfamiliar = image.answer.familiarity?.familiar === false && paragraph(t("why.unfamiliar"), "notice");
  fill(root, head, unfamiliar, controls(image), parts.question, parts.panels, nearest(image), caveat, parts.probe.node);
  arrangePanels();
  requestMaps();
}

/** Draws the image and loads the colours; shows an error and returns null if either fails. */
async function prepared(image) {
  const fail = (notice) => {
    if (shown.url === image.url) fill(root, heading(t("why.title"), t("why.lead")), notice);
    return null;
  };
  try {
    await loadColours();
  } catch (error) {
    return fail(errorNotice(error, null, () => showMaps(image)));
  }
  return drawImage(image.blob, state.manifest.input).catch(() => fail(alertNotice(t("why.undrawable"))));
}

/** The methods of this model; those that explain most to a newcomer come first. */
function methodNames() {
  const names = state.methods.map((method) => method.name);
  return [...FIRST_METHODS.filter((name) => names.includes(name)), ...names.filter((name) => !FIRST_METHODS.includes(name))];
}

function newPanel(method, image, drawn) {
  const tab = { question, look, onMap: () => parts.probe.compare(), onMethod: storeMethods, onRemove: () => removePanel(panel) };
  const panel = new Panel(image, drawn, tab);
  panel.setMethod(method.name, method.parameters);
  return panel;
}

function addPanel() {
  const name = methodNames().find((name) => !panels.some((panel) => panel.method.name === name)) ?? methodNames()[0];
  const panel = newPanel({ name }, panels[0].image, panels[0].drawn);
  panels.push(panel);
  storeMethods();
  arrangePanels();
  panel.request();
  panel.picker.focus();
}

function removePanel(removed) {
  removed.cancel();
  panels = panels.filter((panel) => panel !== removed);
  storeMethods();
  arrangePanels();
  parts.probe.compare();
  parts.add.focus();
}

function storeMethods() {
  change({ methods: panels.map(({ method, parameters }) => ({ name: method.name, parameters })) });
}

/** Changes the question, and the address with it. */
function change(values) {
  Object.assign(state.question, values);
  remember("why");
}

function arrangePanels() {
  panels.forEach((panel) => panel.setAlone(panels.length === 1));
  parts.panels.dataset.count = panels.length;
  fill(parts.panels, panels.map((panel) => panel.node));
  parts.add.disabled = panels.length >= MAX_PANELS;
}

/** Requests all maps again, after a change of the question. */
function requestMaps() {
  const { against } = state.question;
  const names = { label: nameOf(target()), other: against === "" ? "" : nameOf(Number(against)) };
  parts.question.textContent = t(against === "" ? "why.question" : "why.contrast", names);
  panels.forEach((panel) => panel.request());
  parts.probe.clear();
}

const repaint = () => panels.forEach((panel) => panel.paint());
const target = () => (state.question.target === "" ? shown.answer.index : Number(state.question.target));

/** The classes that all panels explain, and their part of the request. */
function question() {
  const index = target();
  const against = state.question.against === "" ? null : Number(state.question.against);
  const value = against === null ? inRequest(index) : `${inRequest(index, true)},${inRequest(against, true)}`;
  return { index, against, query: { target: value, quality: state.question.quality } };
}

function controls(image) {
  const full = checkBox(t("why.full"), state.question.quality === "full", (checked) => ask({ quality: checked ? "full" : "basic" }));
  return el(
    "div",
    { class: "controls" },
    el("div", { class: "row" }, targetField(image), state.manifest.head !== "sigmoid" && againstField(image), parts.add),
    el("div", { class: "row" }, opacityRange(), sideBoxes(), full),
  );
}

function ask(values) {
  change(values);
  requestMaps();
}

function targetField({ answer }) {
  const none = t("why.predicted", { label: nameOf(answer.index) });
  const { target: value } = state.question;
  const onchange = (target) => ask({ target, against: allowedAgainst(target, state.question.against) });
  return classField(t("why.target"), "target", { none, top: answer.top, value, onchange }).node;
}

function againstField({ answer }) {
  const onchange = (against) => ask({ against: allowedAgainst(state.question.target, against) });
  parts.against = classField(t("why.against"), "against", { none: t("why.nothing"), top: answer.top, value: state.question.against, onchange });
  return parts.against.node;
}

/** `against`, or "" where it is the target itself; the field then shows that. */
function allowedAgainst(target, against) {
  const index = target === "" ? shown.answer.index : Number(target);
  const allowed = against !== "" && Number(against) === index ? "" : against;
  parts.against?.set(allowed);
  return allowed;
}

function opacityRange() {
  const oninput = (event) => {
    look.opacity = Number(event.target.value);
    repaint();
  };
  return labelled(t("why.opacity"), el("input", { type: "range", min: 0, max: 1, step: 0.05, value: look.opacity, oninput }));
}

function sideBoxes() {
  const side = (name) =>
    checkBox(t(`side.${name}`), look.visible[name], (checked) => {
      look.visible[name] = checked;
      repaint();
    });
  return el("fieldset", { class: "row" }, el("legend", {}, t("why.shown")), side("favour"), side("against"));
}

function referenceImage(path, alt) {
  const image = el("img", { alt });
  showImage(image, path);
  return image;
}

/** The nearest reference images, which help people more than maps do (see `why.caveat`); their names alone help nobody. */
function nearest({ answer }) {
  const entries = (answer.nearest ?? []).filter(({ picture }) => picture);
  if (entries.length === 0) return null;
  const image = ({ picture, name }) => referenceImage(picture, name);
  const origin = ({ name, distance }) => ` ${t("why.nearest.one", { name: name.split("/").at(-1), distance: rounded(distance) })}`;
  const item = (entry) => el("li", {}, image(entry), el("b", {}, entry.label), origin(entry));
  return el("section", { class: "nearest" }, el("h2", {}, t("why.nearest")), el("ol", {}, entries.map(item)));
}
