// The state that the tabs share: the model, the visitor's images with their answers, the selection.

const LISTED = 5; // classes and reference images in an answer

/** `images` are {name, blob, url, answer}; `answer` is null until it arrives, {error} on failure. */
export const state = { manifest: null, methods: [], images: [], selected: 0 };

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

/** Removes all images, and frees the browser's memory of them. */
export function clearImages() {
  for (const { url } of state.images) URL.revokeObjectURL(url);
  state.images = [];
  state.selected = 0;
}
