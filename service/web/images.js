// The sources of images: files, clipboard, drag and drop, the camera, and samples.

import { getBlob, predictAll, showImage } from "/web/api.js";
import { button, el, fill } from "/web/dom.js";
import { errorNotice } from "/web/parts.js";
import { clearImages, predictionParameters, state } from "/web/state.js";
import { ofLanguage, t } from "/web/text.js";

const listeners = new Set();
let latest = 0; // number of the latest submission: answers to earlier ones are dropped

/** Calls `listener` whenever images, answers or the selection change. */
export const onImages = (listener) => listeners.add(listener);

const changed = () => listeners.forEach((listener) => listener());

/** Shows the image at `index`. */
export function selectImage(index) {
  state.selected = index;
  changed();
}

/** Sorts the images by a number that `key` gives each, the largest first; the shown one stays shown. */
export function sortImages(key) {
  const shown = state.images[state.selected];
  state.images.sort((a, b) => key(b) - key(a));
  selectImage(state.images.indexOf(shown));
}

/** Replaces the images by `files`, and requests their predictions. */
export async function submit(files) {
  if (files.length === 0) return;
  const submission = ++latest;
  clearImages();
  const image = (blob) => ({ name: blob.name ?? t("image.unnamed"), blob, url: URL.createObjectURL(blob), answer: null });
  state.images = files.map(image);
  changed();
  const answers = await predictAll(files, predictionParameters());
  if (submission !== latest) return;
  answers.forEach((answer, index) => (state.images[index].answer = answer));
  state.selected = Math.max(0, answers.findIndex((answer) => !answer.error));
  changed();
}

/** The buttons for files and the camera, and the samples. */
export function imageSources() {
  const input = el("input", { type: "file", accept: "image/*", multiple: true, hidden: true, id: "files", onchange: submitChosen });
  const capture = el("input", { type: "file", accept: "image/*", capture: "environment", hidden: true, onchange: submitChosen });
  const choose = button(t("image.choose"), () => input.click(), { class: "main" });
  const photo = button(t("image.photo"), () => submitPhoto(capture));
  return el("div", { class: "sources" }, el("div", { class: "row" }, choose, photo, input, capture), samples());
}

function submitChosen(event) {
  submit([...event.target.files]);
  event.target.value = ""; // or choosing the same file again would be no change
}

async function submitPhoto(capture) {
  if (matchMedia("(pointer: coarse)").matches || !navigator.mediaDevices) {
    capture.click(); // a phone's own camera takes better photos
    return;
  }
  const { takePhoto } = await import("/web/camera.js");
  const file = await takePhoto();
  if (file) await submit([file]);
}

/** The samples of the bundle as a row of buttons, and who made them; nothing if it has none. */
export function samples() {
  const given = state.manifest.samples ?? [];
  if (given.length === 0) return null;
  const message = el("div", {});
  const sample = ({ file, title }) => {
    const image = el("img", { alt: "", width: 64, height: 64 });
    showImage(image, sampleUrl(file));
    return el("li", {}, button([image, el("span", {}, ofLanguage(title))], () => submitSample(file, message), { class: "sample" }));
  };
  const maker = ({ title, attribution }) => el("li", {}, ofLanguage(title), ": ", attribution);
  const makers = el("details", { class: "quiet" }, el("summary", {}, t("sample.makers")), el("ul", {}, given.map(maker)));
  return el("div", { class: "samples" }, el("p", { class: "quiet" }, t("sample.intro")), el("ul", { class: "row" }, given.map(sample)), makers, message);
}

const sampleUrl = (file) => `/model/samples/${file}`;

async function submitSample(file, message) {
  fill(message);
  try {
    const blob = await getBlob(sampleUrl(file));
    await submit([new File([blob], file, { type: blob.type })]);
  } catch (error) {
    fill(message, errorNotice(error));
  }
}

/** Submits images that are pasted or dropped anywhere, after a call of `before`. */
export function acceptEverywhere(before) {
  const accept = (data) => {
    const files = [...(data?.files ?? [])];
    if (files.length === 0) return;
    before();
    submit(files);
  };
  addEventListener("paste", (event) => accept(event.clipboardData));
  addEventListener("dragover", (event) => {
    event.preventDefault(); // allows the drop
    document.body.classList.add("dragging");
  });
  for (const end of ["dragleave", "drop"]) addEventListener(end, () => document.body.classList.remove("dragging"));
  addEventListener("drop", (event) => {
    event.preventDefault(); // or the browser would open the file
    accept(event.dataTransfer);
  });
}
