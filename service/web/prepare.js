// What is sent of a file that is large, or that the service does not read: a smaller image, if the
// browser can make one; loaded with the first such file.

import { button, el } from "/web/dom.js";
import { state } from "/web/state.js";
import { number, t } from "/web/text.js";

const LONGEST = 2048; // pixels of the longer side: more than an overlay shows
const TIMES = 4; // the shorter side in sides of the network's input: its own resize has enough left
const QUALITY = 0.92;
const HEIC = /^ftyp(hei[cmsx]|hev[cmsx]|mif1|msf1)/; // the brands of HEIF with HEVC

/** Sets what is sent of an image: `blob`, with `note` if it is not the file itself; or `answer`, an error. */
export async function prepare(image) {
  const { file } = image;
  const isHeic = HEIC.test(await file.slice(4, 12).text());
  const bitmap = await createImageBitmap(file).catch(() => null); // turned as its EXIF data say
  if (bitmap === null) {
    if (isHeic && image.answer) image.answer = { error: { code: "heic" } }; // the service rejected it
    return; // the service may read it, or says what is wrong
  }
  const { width, height } = bitmap;
  const scale = scaleOf(width, height);
  if (scale < 1 || isHeic) {
    const sides = [width, height].map((side) => Math.round(side * scale));
    const blob = await drawn(bitmap, sides);
    image.blob = blob;
    const sizes = (pixels, { size }) => `${pixels.map((side) => number(side)).join(" × ")} (${number(size / 1e6, 1)} MB)`;
    image.note = (sendFile) => note(isHeic, sizes([width, height], file), sizes(sides, blob), sendFile);
  }
  bitmap.close();
}

/** The factor for both sides, at most 1. */
function scaleOf(width, height) {
  const { size, short_side: short = 0 } = state.manifest.input;
  const least = TIMES * Math.max(short, ...[size].flat());
  return Math.min(1, Math.max(LONGEST / Math.max(width, height), least / Math.min(width, height)));
}

function drawn(bitmap, [width, height]) {
  const canvas = el("canvas", { width, height });
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.fillStyle = "white"; // below transparent pixels, as in the service
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0, width, height);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", QUALITY));
}

function note(isHeic, from, to, sendFile) {
  const text = t(isHeic ? "sent.converted" : "sent.shrunk", { from, to });
  return el("p", { class: "quiet" }, text, " ", !isHeic && button(t("sent.original"), sendFile, { class: "plain" }));
}
