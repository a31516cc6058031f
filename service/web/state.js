// The state that the tabs share: the model, the visitor's images with their answers, the selection.

/** The number of this load of the page, in the browser's history. */
export const PAGE = performance.timeOrigin;
const LISTED = 5; // classes and reference images in an answer

/**
 * `models` are the names of all models, the default one first, as far as they are known; `base` is the path of the
 * chosen one, "" of the default one.
 *
 * `images` are {name, blob, url, sample, answer}; `answer` is null until it arrives, {error} on failure.
 *
 * `question` is what the tab Why explains: `methods` are {name, parameters}, or null before a choice;
 * `target` and `against` are indices of classes as text, "" for the prediction and for nothing.
 */
export const state = { models: [], base: "", manifest: null, methods: [], images: [], selected: 0, question: asked() };

/** A path of the service, of the chosen model. */
export const ofModel = (path) => state.base + path;

/** A question with `given` choices; the others are those of a newcomer. */
export function asked(given = {}) {
  return { methods: null, target: "", against: "", quality: "basic", ...given };
}

/** The image that the page shows, or undefined. */
export const selectedImage = () => state.images[state.selected];

/** The label of a class. */
export const labelOf = (index) => state.manifest.labels[index];

let shared = { manifest: null, labels: new Set() };

/** True if several classes have this label, as in ImageNet. */
function isShared(label) {
  const { manifest } = state;
  if (shared.manifest !== manifest) {
    const seen = new Set();
    shared = { manifest, labels: new Set(manifest.labels.filter((each) => seen.has(each) || !seen.add(each))) };
  }
  return shared.labels.has(label);
}

/** The name of a class; its index follows where other classes have the same label. */
export const nameOf = (index) => (isShared(labelOf(index)) || labelOf(index) === "" ? `${labelOf(index)} (${index})`.trim() : labelOf(index));

/** A class as the service reads it: its label, or its index where the label would mislead. */
export function inRequest(index, inList = false) {
  const label = labelOf(index);
  const cut = inList && (label.includes(",") || label.trim() !== label);
  return cut || label === "" || isShared(label) ? String(index) : label;
}

/** The parameters of a prediction; the nearest images only where the model has reference images. */
export function predictionParameters() {
  const nearest = Math.min(LISTED, state.manifest.familiarity?.neighbours ?? 0);
  return { top_k: Math.min(LISTED, state.manifest.labels.length), ...(nearest > 0 ? { nearest } : {}) };
}
