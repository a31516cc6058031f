// The address of the page, so that it can be reloaded, shared and gone back to:
//
//   #why?model=imagenet&sample=cat.webp&method=lime;segments=50&method=grad_cam&target=lynx&against=tiger&quality=full
//
// It names samples of the bundle; of the visitor's own images it holds nothing. Those stay in the
// page's memory while it is open, and the browser's history has their number in it.

import { openSample, showImages, submit } from "/web/images.js";
import { use } from "/web/models.js";
import { asked, inRequest, PAGE, selectedImage, state } from "/web/state.js";

const QUALITIES = ["basic", "full"];
const KEPT = 5; // sets of images to go back to
const kept = new Map(); // number → set of images; other loads of the page have other ones
let count = 0;

/** Brings the state to the address: of what it names, the list of what there is not. */
export async function follow() {
  const [, rest = null] = location.hash.split(/\?(.*)/s);
  const wishes = new URLSearchParams(rest ?? "");
  const strange = [];
  const isKnown = history.state?.page === PAGE;
  const isTab = rest === null && !isKnown; // all else stays
  const files = await followModel(wishes.get("model") ?? (isTab ? state.manifest.name : state.models[0]), strange);
  await followImages(wishes, files, strange);
  if (!isTab) followQuestion(wishes, strange);
  return strange;
}

/** Changes to the model `wish`, if it is another one; the files that were shown then, none of them a sample of this model. */
async function followModel(wish = state.manifest.name, strange) {
  if (wish === state.manifest.name) return [];
  if (!state.models.includes(wish)) {
    strange.push(`model=${wish}`);
    return [];
  }
  const files = state.images.map(({ file }) => file);
  await use(wish);
  showImages([]);
  return files;
}

async function followImages(wishes, files, strange) {
  const stamp = history.state;
  const sample = wishes.get("sample");
  const own = stamp?.page === PAGE ? kept.get(stamp.set) : undefined;
  if (own) {
    if (own !== state.images) showImages(own);
  } else if (sample !== null) {
    if (!state.manifest.samples?.some(({ file }) => file === sample)) strange.push(`sample=${sample}`);
    else if (selectedImage()?.sample !== sample) await openSample(sample);
  } else if (stamp === null) submit(files);
  else if (state.images.length > 0) showImages([]);
}

function followQuestion(wishes, strange) {
  const methods = wishes.getAll("method").map((text) => methodOf(text, strange)).filter(Boolean).slice(0, 3);
  const quality = wishes.get("quality") ?? QUALITIES[0];
  if (!QUALITIES.includes(quality)) strange.push(`quality=${quality}`);
  const [target, against] = ["target", "against"].map((name) => classOf(wishes, name, strange));
  const question = asked({
    methods: methods.length > 0 ? methods : null,
    target,
    against: state.manifest.head === "sigmoid" || against === target ? "" : against,
    quality: QUALITIES.includes(quality) ? quality : QUALITIES[0],
  });
  if (JSON.stringify(question) !== JSON.stringify(state.question)) state.question = question;
}

/** The method of "lime;segments=50", or null if the model has none of this name. */
function methodOf(text, strange) {
  const [name, ...settings] = text.split(";");
  const method = state.methods.find((each) => each.name === name);
  if (!method) {
    strange.push(`method=${text}`);
    return null;
  }
  const pairs = settings.map((setting) => setting.split(/=(.*)/s));
  const isKnown = ([key, value]) => value !== undefined && method.parameters.some((parameter) => parameter.name === key);
  strange.push(...pairs.filter((pair) => !isKnown(pair)).map(([key]) => `${name};${key}`));
  return { name, parameters: Object.fromEntries(pairs.filter(isKnown)) };
}

/** The index, as text, of the class that is called so or has this index; "" if there is none. */
function classOf(wishes, name, strange) {
  const text = wishes.get(name);
  if (text === null) return "";
  const index = state.manifest.labels.indexOf(text);
  if (index >= 0 && inRequest(index) === text) return String(index);
  if (/^\d{1,6}$/.test(text) && Number(text) < state.manifest.labels.length) return String(Number(text));
  strange.push(`${name}=${text}`);
  return "";
}

/** The address of what is shown in `tab`. */
function hashOf(tab) {
  const sample = selectedImage()?.sample;
  const { methods, target, against, quality } = state.question;
  const method = ({ name, parameters = {} }) => [name, ...Object.entries(parameters).map(([key, value]) => `${key}=${encodeURIComponent(value)}`)].join(";");
  const pairs = [
    sample && ["sample", encodeURIComponent(sample)],
    ...(methods ?? []).map((each) => ["method", method(each)]),
    target !== "" && ["target", encodeURIComponent(inRequest(Number(target)))],
    against !== "" && ["against", encodeURIComponent(inRequest(Number(against)))],
    quality !== QUALITIES[0] && ["quality", quality],
  ].filter(Boolean);
  if (pairs.length === 0 && !state.base) return `#${tab}`;
  return `#${tab}?${[["model", encodeURIComponent(state.manifest.name)], ...pairs].map((pair) => pair.join("=")).join("&")}`;
}

/** Writes what is shown into the address: a new entry of the browser's history if it is something else. */
export function remember(tab) {
  const stamp = { page: PAGE, set: numberOf(state.images) };
  const hash = hashOf(tab);
  const same = location.hash === hash && history.state?.set === stamp.set;
  if (same || history.state?.page !== PAGE) history.replaceState(stamp, "", hash);
  else history.pushState(stamp, "", hash);
}

/** The number of a set of images, which is kept from now on; −1 of none. */
function numberOf(images) {
  if (images.length === 0) return -1;
  for (const [number, each] of kept) if (each === images) return number;
  kept.set(++count, images);
  const [oldest] = kept.keys();
  if (kept.size > KEPT) {
    for (const { url } of kept.get(oldest)) URL.revokeObjectURL(url);
    kept.delete(oldest);
  }
  return count;
}
