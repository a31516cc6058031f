// A map over an image, as service/explain/render.py draws it: where the map is strong, a pale grey
// print in its colours takes the place of the image's own.

import { colourIndex, colours, opacity } from "/web/colours.js";

const DARKEST = 0.4; // of the print, where the image is black: on black no colour would show
const DIMMED = 0.4; // of the light of what the network did not see
const FRAME = 1 / 160; // the width of the frame, as a share of the shorter side
const MUTED = { diverging: 0.5, sequential: 0 }; // the share of the image's colours that goes
const MARKED_SIDE = 96; // pixels of the shorter side: lines would hide a smaller image
const HATCHES = 36; // lines along the shorter side
const OUTLINED = 0.5; // the strength that a line runs around
const OUTLINE = 1 / 300; // its width, as a share of the shorter side
const LINE = 0.45; // the light that a line takes
const DOUBLINGS = 3; // of the cells, as in service/explain/cells.py
const SIDE = 480; // pixels of the longer side
const COARSE = 4; // from this magnification on, pixels are drawn as squares

/** Decodes a map of the service: its `shape` [rows, columns], and its float32 values row by row. */
export function decodeMap(map) {
  const bytes = Uint8Array.from(atob(map.data), (character) => character.charCodeAt(0));
  return { shape: map.shape, values: new Float32Array(bytes.buffer) };
}

/** The network's view of an image, in its pixels, as `visible_box` of service/image/resize.py. */
export function visibleBox(width, height, input) {
  if (input.resize === "stretch") return { left: 0, top: 0, right: width, bottom: height };
  const [rows, columns = rows] = [input.size].flat();
  if (input.resize === "pad") return paddedBox(width, height, rows, columns);
  const scale = (Math.min(width / columns, height / rows) * Math.min(rows, columns)) / input.short_side;
  const [left, top] = [(width - columns * scale) / 2, (height - rows * scale) / 2];
  return { left, top, right: width - left, bottom: height - top };
}

/** The same of a padded image, which lies on whole pixels of the input. */
function paddedBox(width, height, rows, columns) {
  const scale = Math.min(columns / width, rows / height);
  const [across, down] = [Math.max(1, even(width * scale)), Math.max(1, even(height * scale))];
  const [x, y] = [even((columns - width * scale) / 2), even((rows - height * scale) / 2)];
  const [wide, high] = [width / across, height / down];
  return { left: -x * wide, top: -y * high, right: (columns - x) * wide, bottom: (rows - y) * high };
}

/** The nearest whole number, of two the even one, as Python rounds. */
const even = (value) => (Math.abs(value % 1) === 0.5 ? 2 * Math.round(value / 2) : Math.round(value));

/** Draws an image, its longer side SIDE pixels: its `canvas`, its `pixels` and the network's view `box`. */
export async function drawImage(blob, input) {
  const bitmap = await createImageBitmap(blob);
  const scale = SIDE / Math.max(bitmap.width, bitmap.height);
  const canvas = emptyCanvas(Math.max(1, Math.round(bitmap.width * scale)), Math.max(1, Math.round(bitmap.height * scale)));
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = scale < COARSE;
  context.imageSmoothingQuality = "high";
  context.fillStyle = "white"; // below transparent pixels, as in the service
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  const view = visibleBox(bitmap.width, bitmap.height, input);
  const [across, down] = [canvas.width / bitmap.width, canvas.height / bitmap.height];
  const box = { left: view.left * across, top: view.top * down, right: view.right * across, bottom: view.bottom * down };
  bitmap.close();
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height);
  return { canvas, pixels, box };
}

/** An empty canvas. */
export function emptyCanvas(width, height) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, height];
  return canvas;
}

/** What is drawn of a map by cells of about `cell` pixels a side: a smooth surface through their means; [values, shape]. */
export function gathered(values, shape, cell) {
  if (!(cell > 1)) return [values, shape];
  let [drawn, sides] = means(values, shape, cell);
  for (let times = 0; times < DOUBLINGS; times++) [drawn, sides] = doubled(drawn, sides);
  return [drawn, sides];
}

function doubled(values, [height, width]) {
  const [rows, columns] = [cellsOf(2 * height, 0, 2 * height, height), cellsOf(2 * width, 0, 2 * width, width)];
  const drawn = new Float32Array(4 * height * width);
  rows.forEach((row, y) => columns.forEach((column, x) => (drawn[2 * width * y + x] = interpolated(values, width, column, row))));
  return [drawn, [2 * height, 2 * width]];
}

function means(values, [height, width], cell) {
  const [rows, columns] = [height, width].map((side) => Math.max(1, Math.floor(side / cell)));
  const [sums, counts] = [new Float64Array(rows * columns), new Float64Array(rows * columns)];
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++, at++) {
      const place = Math.floor((y * rows) / height) * columns + Math.floor((x * columns) / width);
      sums[place] += values[at];
      counts[place] += 1;
    }
  }
  return [Float32Array.from(sums, (sum, place) => sum / counts[place]), [rows, columns]];
}

/** The strengths −1…1 of a map's values; zero for the side that `visible` hides. */
export function strengths(values, limit, scale, visible) {
  const low = scale === "diverging" && visible.against ? -1 : 0;
  const high = visible.favour ? 1 : 0;
  return values.map((value) => (limit > 0 ? Math.min(high, Math.max(low, value / limit)) : 0));
}

/** A drawn image under the colours of `strength`, on a canvas of the same size, with lines as for `shorter` pixels of a side. */
export function overlay({ pixels, box }, strength, shape, scale, shorter = Math.min(pixels.width, pixels.height)) {
  const { width, height } = pixels;
  const image = new ImageData(new Uint8ClampedArray(pixels.data), width, height);
  const values = placed(strength, shape, width, height, box);
  const [table, light] = [colours(scale), marks(values, width, height, shorter)];
  values.forEach((value, place) => {
    cover(image.data, 4 * place, opacity(value, scale), table, colourIndex(table, value), light(value, place), MUTED[scale]);
  });
  frame(image, box);
  const canvas = emptyCanvas(width, height);
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

/** The strength of each pixel of a canvas, zero outside of the view. */
function placed(strength, shape, width, height, box) {
  const [columns, rows] = [cellsOf(width, box.left, box.right, shape[1]), cellsOf(height, box.top, box.bottom, shape[0])];
  return Float32Array.from({ length: width * height }, (_, place) => {
    const [column, row] = [columns[place % width], rows[Math.floor(place / width)]];
    return column === null || row === null ? 0 : interpolated(strength, shape[1], column, row);
  });
}

/** The light 0…1 that lines leave of each pixel: hatching of what speaks against the target, outlines of what is strong for it. */
function marks(values, width, height, shorter) {
  if (shorter < MARKED_SIDE) return () => 1;
  const [period, edge] = [Math.max(6, Math.round(shorter / HATCHES)), Math.max(1, Math.round(OUTLINE * shorter))];
  const strong = (x, y) => x >= 0 && y >= 0 && x < width && y < height && values[y * width + x] >= OUTLINED;
  const within = (x, y) => strong(x - edge, y) && strong(x + edge, y) && strong(x, y - edge) && strong(x, y + edge);
  return (value, place) => {
    const [x, y] = [place % width, Math.floor(place / width)];
    if (value >= OUTLINED) return within(x, y) ? 1 : 1 - LINE;
    if (value >= 0) return 1;
    return 1 - LINE * Math.min(1, Math.max(0, period / 10 + 0.5 - Math.abs(((x + y) % period) - period / 2)));
  };
}

function cover(data, at, share, table, colour, light, muted) {
  const grey = 0.299 * data[at] + 0.587 * data[at + 1] + 0.114 * data[at + 2]; // ITU-R BT.601, as Pillow
  const print = light * (255 * DARKEST + grey * (1 - DARKEST));
  for (let channel = 0; channel < 3; channel++) {
    const own = data[at + channel] + muted * (grey - data[at + channel]);
    data[at + channel] = own + share * (print * table[colour + channel] - own);
  }
}

/** Darkens what the network did not see, and draws a white line around the rest. */
function frame({ data, width, height }, box) {
  const line = Math.max(1, Math.round(FRAME * Math.min(width, height)));
  const [left, right, top, bottom] = [box.left, box.right, box.top, box.bottom].map(Math.round);
  const beyond = (value, first, end) => Math.max(first - value, value - end + 1); // pixels; 0 or less inside
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++, at += 4) {
      const distance = Math.max(beyond(x, left, right), beyond(y, top, bottom));
      for (let channel = at; channel < at + 3 && distance > 0; channel++) data[channel] = distance <= line ? 255 : Math.floor(DIMMED * data[channel]);
    }
  }
}

/** For each pixel of a line: the two cells of the map around it, and its position between them; null outside the view. */
function cellsOf(count, start, end, side) {
  const [first, last] = [Math.round(start), Math.round(end)];
  return Array.from({ length: count }, (_, pixel) => {
    if (pixel < first || pixel >= last) return null;
    const position = Math.min(side - 1, Math.max(0, ((pixel + 0.5 - first) * side) / (last - first) - 0.5));
    const cell = Math.min(Math.floor(position), Math.max(0, side - 2));
    return [cell, Math.min(cell + 1, side - 1), position - cell];
  });
}

/** Bilinear interpolation. */
function interpolated(values, width, column, row) {
  const [left, right, x] = column;
  const [above, below, y] = [row[0] * width, row[1] * width, row[2]];
  const top = values[above + left] * (1 - x) + values[above + right] * x;
  const bottom = values[below + left] * (1 - x) + values[below + right] * x;
  return top * (1 - y) + bottom * y;
}

/** Shows `image` on `target`, and `layer` over it with an opacity 0…1. */
export function show(target, image, layer, opacity) {
  [target.width, target.height] = [image.width, image.height];
  const context = target.getContext("2d");
  context.drawImage(image, 0, 0);
  context.globalAlpha = opacity;
  context.drawImage(layer, 0, 0);
}

/** A canvas with the colours of a scale, from the lowest to the highest: the drawing of a white image. */
export function colourBar(scale) {
  const [width, height] = [256, 12];
  const pixels = new ImageData(new Uint8ClampedArray(4 * width * height).fill(255), width, height);
  const lowest = scale === "diverging" ? -1 : 0;
  const strength = Float32Array.from({ length: width }, (_, at) => lowest + (at / (width - 1)) * (1 - lowest));
  return overlay({ pixels, box: { left: 0, top: 0, right: width, bottom: height } }, strength, [1, width], scale, width);
}

/** The ninth of the view (0…8, row by row) with most of the support, and its share; null without support. */
export function strongestNinth(values, [rows, columns]) {
  const sums = new Array(9).fill(0);
  values.forEach((value, at) => {
    const row = Math.floor((3 * Math.floor(at / columns)) / rows);
    const column = Math.floor((3 * (at % columns)) / columns);
    sums[3 * row + column] += Math.max(0, value);
  });
  const total = sums.reduce((sum, value) => sum + value, 0);
  if (total === 0) return null;
  const most = sums.indexOf(Math.max(...sums));
  return { ninth: most, share: sums[most] / total };
}
