// Where pictures come from: a file, the clipboard, a drop, the camera, or a sample that this project drew.

import { predictAll } from "/web/api.js";
import { button, el } from "/web/dom.js";
import { asked, forget, state } from "/web/state.js";
import { t } from "/web/text.js";

const SAMPLES = ["ship", "airplane", "automobile", "ball"];
const listeners = new Set();
let round = 0; // answers to pictures that were replaced meanwhile are dropped

/** Calls `listener` whenever the pictures or their answers change. */
export const listen = (listener) => listeners.add(listener);

/** Shows the picture at `index`. */
export function choose(index) {
  state.chosen = index;
  changed();
}

const changed = () => listeners.forEach((listener) => listener());

/** Takes `files` in the place of what was there, and asks for their predictions. */
export async function take(files) {
  if (files.length === 0) return;
  const mine = ++round;
  forget();
  const shot = (blob) => ({ name: blob.name ?? t("picture.unnamed"), blob, url: URL.createObjectURL(blob), answer: null });
  state.shots = files.map(shot);
  changed();
  const answers = await predictAll(files, asked());
  if (mine !== round) return;
  answers.forEach((answer, index) => (state.shots[index].answer = answer));
  state.chosen = Math.max(0, answers.findIndex((answer) => !answer.error));
  changed();
}

/** The buttons to choose a file or to take a photograph, and the samples. */
export function sources() {
  const input = el("input", { type: "file", accept: "image/*", multiple: true, hidden: true, id: "files", onchange: picked });
  const capture = el("input", { type: "file", accept: "image/*", capture: "environment", hidden: true, onchange: picked });
  const pick = button(t("picture.choose"), () => input.click(), { class: "main" });
  const shoot = button(t("picture.photo"), () => photo(capture));
  return el("div", { class: "sources" }, el("div", { class: "row" }, pick, shoot, input, capture), samples());
}

function picked(event) {
  take([...event.target.files]);
  event.target.value = ""; // the same file may be chosen again
}

async function photo(capture) {
  if (matchMedia("(pointer: coarse)").matches || !navigator.mediaDevices) {
    capture.click(); // a telephone's own camera does it better
    return;
  }
  const { photograph } = await import("/web/camera.js");
  const file = await photograph();
  if (file) await take([file]);
}

/** The samples as a row of small pictures. */
export function samples() {
  const one = (name) => {
    const image = el("img", { src: `/web/samples/${name}.webp`, alt: "", width: 64, height: 64 });
    return el("li", {}, button([image, el("span", {}, t(`sample.${name}`))], () => sample(name), { class: "sample" }));
  };
  return el("div", { class: "samples" }, el("p", { class: "quiet" }, t("sample.intro")), el("ul", {}, SAMPLES.map(one)));
}

/** Takes the sample called `name`. */
export async function sample(name) {
  const blob = await (await fetch(`/web/samples/${name}.webp`)).blob();
  await take([new File([blob], `${name}.webp`, { type: "image/webp" })]);
}

/** Makes the whole page take what is pasted or dropped; `arrived` is called before. */
export function everywhere(arrived) {
  const taken = (data) => {
    const files = [...(data?.files ?? [])];
    if (files.length === 0) return;
    arrived();
    take(files);
  };
  addEventListener("paste", (event) => taken(event.clipboardData));
  addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("dragging");
  });
  for (const end of ["dragleave", "drop"]) addEventListener(end, () => document.body.classList.remove("dragging"));
  addEventListener("drop", (event) => {
    event.preventDefault();
    taken(event.dataTransfer);
  });
}
