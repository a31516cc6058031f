// What the tabs share: the model, the pictures that were given with their answers, and which of them is looked at.

const MOST = 5; // that are listed

/** `shots` are {name, blob, url, answer}; `answer` is null while it is awaited, and {error: problem} where there is none. */
export const state = { manifest: null, methods: [], shots: [], chosen: 0 };

/** The picture that is looked at, or undefined. */
export const shot = () => state.shots[state.chosen];

/** What a prediction is asked for: some classes, and the nearest reference pictures where the model knows any. */
export function asked() {
  const neighbours = Math.min(MOST, state.manifest.familiarity?.neighbours ?? 0);
  return { top_k: Math.min(MOST, state.manifest.labels.length), ...(neighbours > 0 ? { nearest: neighbours } : {}) };
}

/** Forgets the pictures, and what the browser holds for them. */
export function forget() {
  for (const { url } of state.shots) URL.revokeObjectURL(url);
  state.shots = [];
  state.chosen = 0;
}
