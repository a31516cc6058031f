// The state that the tabs share: the model, the visitor's images with their answers, the selection.

const LISTED = 5; // classes and reference images in an answer

/** `images` are {name, blob, url, answer}; `answer` is null until it arrives, {error} on failure. */
export const state = { manifest: null, methods: [], images: [], selected: 0 };

/** The image that the page shows, or undefined. */
export const selectedImage = () => state.images[state.selected];

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
