// The sources of images: files, clipboard, drag and drop, the camera, and samples.

import { getBlob, loaded, mayPass, predictAll, showImage } from "/web/api.js";
import { button, el, fill } from "/web/dom.js";
import { errorNotice } from "/web/parts.js";
import { ofModel, predictionParameters, state } from "/web/state.js";
import { loadMore, ofLanguage, t } from "/web/text.js";

const LARGE = 2 * 2 ** 20; // bytes: a larger file is shrunk before it is sent
const REJECTED = [413, 415]; // too large, or of a format that perhaps the browser can read
const listeners = new Set();
let latest = 0; // number of the latest wish: a sample that arrives after a later one is dropped

/** Calls `listener` whenever images, answers or the selection change. */
export const onImages = (listener) => listeners.add(listener);

const changed = () => listeners.forEach((listener) => listener());

/** Shows the image at `index`. */
export function selectImage(index) {
  if (index !== state.selected) forgetClasses();
  state.selected = index;
  changed();
}

/** Shows `images`, and requests the predictions that they lack; not while others are shown, perhaps by another model. */
export async function showImages(images) {
  latest += 1;
  Object.assign(state, { images, selected: 0 });
  changed();
  const isShown = () => state.images === images;
  const waiting = images.filter(({ answer }) => answer === null);
  if (waiting.length === 0) return;
  await prepareAll(waiting.filter(({ file }) => file.size > LARGE || /hei[cf]/i.test(`${file.type} ${file.name}`)));
  if (isShown()) await predictImages(waiting);
  const rejected = waiting.filter(({ answer, blob, file }) => REJECTED.includes(answer?.error?.status) && blob === file);
  if (isShown()) await prepareAll(rejected);
  if (isShown()) await predictImages(rejected.filter(({ blob, file }) => blob !== file));
  if (!isShown()) return;
  state.selected = Math.max(0, images.findIndex(({ answer }) => !answer.error));
  changed();
}

/** The classes of a question belong to one image. */
const forgetClasses = () => Object.assign(state.question, { target: "", against: "" });

/** Sorts the images by a number that `key` gives each, the largest first; the shown one stays shown. */
export function sortImages(key) {
  const shown = state.images[state.selected];
  state.images.sort((a, b) => key(b) - key(a));
  state.selected = state.images.indexOf(shown);
  changed();
}

/** Replaces the images by `files`, and requests their predictions; `sample` is its name if it is one of the bundle. */
export async function submit(files, sample = null) {
  if (files.length === 0) return;
  const image = (file) => ({ name: file.name ?? t("image.unnamed"), file, blob: file, url: URL.createObjectURL(file), sample, answer: null });
  forgetClasses();
  await showImages(files.map(image));
}

/** Makes smaller images of large files, one after the other: an image takes much memory. */
async function prepareAll(images) {
  if (images.length === 0) return;
  const [module] = await Promise.all([import("/web/prepare.js"), loadMore()]).catch(() => []); // then they are sent as they are
  for (const image of images) await module?.prepare(image);
}

/** Requests the predictions of images that have no error yet. */
async function predictImages(images) {
  const asked = images.filter(({ blob, file, answer }) => answer === null || blob !== file);
  const answers = await predictAll(asked.map(({ blob }) => blob), predictionParameters());
  answers.forEach((answer, index) => (asked[index].answer = answer));
}

/** Requests the prediction of the shown image by the file as it is. */
export function sendFile() {
  Object.assign(state.images[state.selected], { blob: state.images[state.selected].file, note: null });
  return predictAgain();
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
  const [{ takePhoto }] = await loaded(Promise.all([import("/web/camera.js"), loadMore()]));
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

const sampleUrl = (file) => ofModel(`/model/samples/${file}`);

/** Requests the prediction of the shown image again, and those of all others that failed for a reason that may pass. */
export async function predictAgain() {
  const hasFailed = ({ answer }) => answer?.error && mayPass({ problem: answer.error });
  const images = state.images.filter((image, index) => index === state.selected || hasFailed(image));
  for (const image of images) image.answer = null;
  changed();
  await predictImages(images);
  changed();
}

/** Submits the sample `file` of the bundle; resolves when it is shown, before its answer. */
export async function openSample(file) {
  const wish = ++latest;
  const blob = await getBlob(sampleUrl(file));
  if (wish === latest) submit([new File([blob], file, { type: blob.type })], file);
}

async function submitSample(file, message) {
  fill(message);
  try {
    await openSample(file);
  } catch (error) {
    fill(message, errorNotice(error, null, () => submitSample(file, message)));
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
