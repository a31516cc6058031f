// A map over a picture, drawn as service/explain/render.py draws it: the picture becomes a pale grey print, the map an ink upon it.

import { colours, place } from "/web/scales.js";

const DARKEST = 0.5; // of the print
const SIDE = 480; // pixels of the longer side of what is drawn
const COARSE = 4; // from this magnification on, pixels are shown as squares

/** The values of a map of the service, float32 row by row, and its side. */
export function decode(map) {
  const bytes = Uint8Array.from(atob(map.data), (character) => character.charCodeAt(0));
  return { side: map.shape[0], values: new Float32Array(bytes.buffer) };
}

/** The part of a picture that the network sees, as `view` of service/image/decode.py has it, in its pixels. */
export function view(width, height, input) {
  if (input.resize === "stretch") return { left: 0, top: 0, right: width, bottom: height };
  const side = input.resize === "pad" ? Math.max(width, height) : (Math.min(width, height) * input.size) / input.short_side;
  const [left, top] = [(width - side) / 2, (height - side) / 2];
  return { left, top, right: left + side, bottom: top + side };
}

/** A picture ready to be drawn on: a `canvas` whose longer side has SIDE pixels, its `image`, and in its pixels the network's view. */
export async function ground(blob, input) {
  const bitmap = await createImageBitmap(blob);
  const scale = SIDE / Math.max(bitmap.width, bitmap.height);
  const canvas = blank(Math.max(1, Math.round(bitmap.width * scale)), Math.max(1, Math.round(bitmap.height * scale)));
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = scale < COARSE;
  context.imageSmoothingQuality = "high";
  context.fillStyle = "white"; // under what is transparent, as the service does
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  const image = context.getImageData(0, 0, canvas.width, canvas.height);
  return { canvas, image, box: view(canvas.width, canvas.height, input) };
}

/** An empty canvas. */
export function blank(width, height) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, height];
  return canvas;
}

/** The strengths −1…1 of a map's values; only those for or against the target that `shown` names. */
export function strengths(values, limit, scale, shown) {
  const low = scale === "diverging" && shown.against ? -1 : 0;
  const high = shown.favour ? 1 : 0;
  return values.map((value) => (limit > 0 ? Math.min(high, Math.max(low, value / limit)) : 0));
}

/** The print of `ground` under the ink of `strength`, on a canvas as large. */
export function overlay({ image: picture, box }, strength, side, scale) {
  const { width, height } = picture;
  const image = new ImageData(new Uint8ClampedArray(picture.data), width, height);
  const [across, down] = [weights(width, box.left, box.right, side), weights(height, box.top, box.bottom, side)];
  const table = colours(scale);
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++, at += 4) ink(image.data, at, table, place(between(strength, side, across[x], down[y])));
  }
  const sheet = blank(width, height);
  sheet.getContext("2d").putImageData(image, 0, 0);
  return sheet;
}

function ink(data, at, table, colour) {
  const grey = 0.299 * data[at] + 0.587 * data[at + 1] + 0.114 * data[at + 2]; // ITU-R BT.601, as Pillow
  const paper = 255 * DARKEST + grey * (1 - DARKEST);
  for (let channel = 0; channel < 3; channel++) data[at + channel] = paper * table[colour + channel];
}

/** For each pixel of a row the two cells of the map that it lies between and how far; null outside of the network's view. */
function weights(count, start, end, side) {
  const [first, last] = [Math.round(start), Math.round(end)];
  return Array.from({ length: count }, (_, pixel) => {
    if (pixel < first || pixel >= last) return null;
    const at = Math.min(side - 1, Math.max(0, ((pixel + 0.5 - first) * side) / (last - first) - 0.5));
    const from = Math.min(Math.floor(at), Math.max(0, side - 2));
    return [from, Math.min(from + 1, side - 1), at - from];
  });
}

function between(values, side, across, down) {
  if (across === null || down === null) return 0;
  const [left, right, x] = across;
  const [above, below, y] = [down[0] * side, down[1] * side, down[2]];
  const top = values[above + left] * (1 - x) + values[above + right] * x;
  const bottom = values[below + left] * (1 - x) + values[below + right] * x;
  return top * (1 - y) + bottom * y;
}

/** Draws `picture`, and `sheet` over it with an opacity 0…1. */
export function show(target, picture, sheet, opacity) {
  [target.width, target.height] = [picture.width, picture.height];
  const context = target.getContext("2d");
  context.drawImage(picture, 0, 0);
  context.globalAlpha = opacity;
  context.drawImage(sheet, 0, 0);
}

/** The colours from the least to the most, on a canvas. */
export function bar(scale) {
  const [width, height] = [256, 12];
  const canvas = blank(width, height);
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  const [table, least] = [colours(scale), scale === "diverging" ? -1 : 0];
  for (let at = 0; at < width * height; at++) {
    const colour = place(least + ((at % width) / (width - 1)) * (1 - least));
    for (let channel = 0; channel < 3; channel++) image.data[4 * at + channel] = 255 * table[colour + channel];
    image.data[4 * at + 3] = 255;
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

/** Where the evidence for the target lies: the ninth of the view that holds most of it (0…8, row by row), and its share; null for none. */
export function focus(values, side) {
  const sums = new Array(9).fill(0);
  values.forEach((value, at) => {
    const [row, column] = [Math.floor(at / side), at % side].map((place) => Math.min(2, Math.floor((3 * place) / side)));
    sums[3 * row + column] += Math.max(0, value);
  });
  const total = sums.reduce((sum, value) => sum + value, 0);
  if (total === 0) return null;
  const most = sums.indexOf(Math.max(...sums));
  return { ninth: most, share: sums[most] / total };
}
