// What the tabs share: the model, the pictures that were given with their answers, and which of them is looked at.

/** `shots` are {name, blob, url, answer}; `answer` is null while it is awaited, and {error: problem} where there is none. */
export const state = { manifest: null, methods: [], shots: [], chosen: 0 };

/** The picture that is looked at, or undefined. */
export const shot = () => state.shots[state.chosen];

/** How many classes a prediction lists. */
export const listed = () => Math.min(5, state.manifest.labels.length);

/** Forgets the pictures, and what the browser holds for them. */
export function forget() {
  for (const { url } of state.shots) URL.revokeObjectURL(url);
  state.shots = [];
  state.chosen = 0;
}
