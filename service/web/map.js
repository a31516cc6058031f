// A map over an image, as service/explain/render.py draws it: the image is a pale grey print, and
// the colours of the map multiply it.

import { colourIndex, colours } from "/web/colours.js";

const DARKEST = 0.5; // of the print: black becomes mid-grey, so that colours stay visible
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
  const scales = [width / columns, height / rows];
  const scale = input.resize === "pad" ? Math.max(...scales) : (Math.min(...scales) * Math.min(rows, columns)) / input.short_side;
  const [left, top] = [(width - columns * scale) / 2, (height - rows * scale) / 2];
  return { left, top, right: width - left, bottom: height - top };
}

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
  bitmap.close();
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height);
  return { canvas, pixels, box: visibleBox(canvas.width, canvas.height, input) };
}

/** An empty canvas. */
export function emptyCanvas(width, height) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, height];
  return canvas;
}

/** The means of a map over cells of about `cell` pixels a side, as the service draws them; [values, shape]. */
export function gathered(values, [height, width], cell) {
  if (!(cell > 1)) return [values, [height, width]];
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

/** The print of a drawn image in the colours of `strength`, on a canvas of the same size. */
export function overlay({ pixels, box }, strength, shape, scale) {
  const { width, height } = pixels;
  const image = new ImageData(new Uint8ClampedArray(pixels.data), width, height);
  const [columns, rows] = [cellsOf(width, box.left, box.right, shape[1]), cellsOf(height, box.top, box.bottom, shape[0])];
  const table = colours(scale);
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++, at += 4) {
      multiply(image.data, at, table, colourIndex(table, interpolated(strength, shape[1], columns[x], rows[y])));
    }
  }
  const canvas = emptyCanvas(width, height);
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

function multiply(data, at, table, colour) {
  const grey = 0.299 * data[at] + 0.587 * data[at + 1] + 0.114 * data[at + 2]; // ITU-R BT.601, as Pillow
  const print = 255 * DARKEST + grey * (1 - DARKEST);
  for (let channel = 0; channel < 3; channel++) data[at + channel] = print * table[colour + channel];
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
  if (column === null || row === null) return 0;
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

/** A canvas with the colours of a scale, from the lowest to the highest. */
export function colourBar(scale) {
  const [width, height] = [256, 12];
  const canvas = emptyCanvas(width, height);
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  const [table, lowest] = [colours(scale), scale === "diverging" ? -1 : 0];
  for (let at = 0; at < width * height; at++) {
    const colour = colourIndex(table, lowest + ((at % width) / (width - 1)) * (1 - lowest));
    for (let channel = 0; channel < 3; channel++) image.data[4 * at + channel] = 255 * table[colour + channel];
    image.data[4 * at + 3] = 255;
  }
  context.putImageData(image, 0, 0);
  return canvas;
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
