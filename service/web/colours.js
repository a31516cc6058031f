// The colour scales of maps, from the service, which draws its overlays with the same ones.

import { getJson } from "/web/api.js";

const SOLID = { diverging: 0.5, sequential: 0.9 }; // the strength from which on no colour of the image itself is left
let scales = null;

/** Loads the scales; call it before `colours`. */
export async function loadColours() {
  if (scales !== null) return;
  const tables = Object.entries(await getJson("/web/colours.json"));
  scales = Object.fromEntries(tables.map(([name, table]) => [name, Float32Array.from(table.flatMap(channels))]));
}

/** The sRGB channels 0…1 of a colour "#rrggbb". */
const channels = (colour) => [1, 3, 5].map((start) => parseInt(colour.slice(start, start + 2), 16) / 255);

/** The colours of the strengths −1…1: triples of sRGB 0…1, one after the other. */
export const colours = (scale) => scales[scale];

/** The index in `table`, a scale, of the colour of a strength −1…1. */
export const colourIndex = (table, strength) => 3 * Math.round(((strength + 1) / 2) * (table.length / 3 - 1));

/** The share 0…1 of a pixel that the ink of a strength −1…1 takes from the image, as service/explain/colours.py. */
export const opacity = (strength, scale) => Math.min(Math.abs(strength) / SOLID[scale], 1);
