// The colours of service/explain/colours.py: an attribution's strength −1…1 as an ink that the print below is multiplied with.
// Stops are lightness 0…1, chroma and hue in degrees of Oklab (Björn Ottosson 2020), between which colours run in straight lines.

const STEPS = 256;
const WHITE = [1, 0, 0];
const ORANGE = [WHITE, [0.86, 0.095, 68], [0.73, 0.155, 58], [0.61, 0.145, 50]];
const BLUE = [WHITE, [0.86, 0.075, 248], [0.73, 0.13, 252], [0.61, 0.16, 257]];
const VIOLET = [WHITE, [0.84, 0.09, 310], [0.68, 0.165, 307], [0.52, 0.2, 303]];

const cartesian = ([lightness, chroma, hue]) => {
  const angle = (hue * Math.PI) / 180;
  return [lightness, chroma * Math.cos(angle), chroma * Math.sin(angle)];
};

/** Oklab → sRGB 0…1. */
function srgb([lightness, a, b]) {
  const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  const linear = [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ];
  return linear.map(companded);
}

function companded(linear) {
  const value = linear <= 0.0031308 ? 12.92 * linear : 1.055 * linear ** (1 / 2.4) - 0.055; // IEC 61966-2-1
  return Math.min(1, Math.max(0, value));
}

/** STEPS colours from white to the last of `stops`. */
function side(stops) {
  const points = stops.map(cartesian);
  return Array.from({ length: STEPS }, (_, step) => {
    const place = (step / (STEPS - 1)) * (points.length - 1);
    const from = Math.min(Math.floor(place), points.length - 2);
    return srgb(points[from].map((value, axis) => value + (place - from) * (points[from + 1][axis] - value)));
  });
}

function table(against, favour) {
  return Float32Array.from([...against.slice(1).reverse(), ...favour].flat());
}

const white = Array.from({ length: STEPS }, () => [1, 1, 1]);
const TABLES = { diverging: table(side(BLUE), side(ORANGE)), sequential: table(white, side(VIOLET)) };

/** The colours of −1…1, as 2 · STEPS − 1 triples of sRGB 0…1. */
export const colours = (scale) => TABLES[scale];

/** The place in `colours` of a strength −1…1. */
export const place = (strength) => 3 * Math.round((strength + 1) * (STEPS - 1));
