// The colour scales of maps, from the service, which draws its overlays with the same ones.

import { getJson } from "/web/api.js";

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
