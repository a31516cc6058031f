// The measures of a map in words; docs/explanations.md lists when each one misleads.

import { number, percent, t } from "/web/text.js";

/** Methods whose maps have one sign: two of them are alike by that. */
const RECTIFIED = ["saliency", "smooth_grad", "grad_cam_plus_plus", "layer_cam"];
/** Of the way from the cosine of unrelated maps to 1, where two maps are nearly the same. */
const REST = 0.2;
/** Standard deviations of the random orders that a map has to be better by; the smallest lead. */
const SPREAD = 2, ROUNDING = 1e-6;
const OPPONENTS = ["random", "blob", "edges"];

/** The sentences about the quality of an explanation, as {tone: good | fair | poor | plain, text}. */
export function sentences({ quality, method, areas_unit: unit }) {
  const judges = [completeness, agreement, (measures) => classCosine(measures, method), linearity, sensitivity];
  const judged = judges.map((judge) => judge(quality));
  judged.splice(-1, 0, race(quality, "deletion", unit), race(quality, "insertion", unit));
  return judged.filter((sentence) => sentence !== null);
}

const sentence = (name, tone, values) => ({ tone, text: t(`quality.${name}.${tone}`, values) });

/** good up to the first limit, fair up to the second, poor above. */
function toneOf(value, goodLimit, fairLimit) {
  if (value <= goodLimit) return "good";
  return value <= fairLimit ? "fair" : "poor";
}

function completeness({ completeness_gap: gap }) {
  return gap === undefined ? null : sentence("adds", toneOf(gap, 0.05, 0.2), { gap: percent(gap) });
}

function agreement({ agreement: cosine }) {
  return cosine === undefined ? null : sentence("agrees", toneOf(1 - cosine, 0.1, 0.5), { cosine: number(cosine) });
}

function classCosine({ class_cosine: cosine, class_cosine_unrelated: unrelated }, method) {
  if (cosine === undefined) return null;
  if (unrelated !== undefined) return sentence("beside", toneOf(cosine, unrelated, 1 - REST * (1 - unrelated)), { cosine: number(cosine), unrelated: number(unrelated) });
  return sentence("specific", RECTIFIED.includes(method) ? "plain" : toneOf(cosine, 0.5, 0.9), { cosine: number(cosine) });
}

function linearity({ surrogate_r2: r2 }) {
  return r2 === undefined ? null : sentence("linear", toneOf(1 - r2, 0.2, 0.5), { r2: percent(Math.max(0, r2)) });
}

/** The opponents that the map does not beat, the strongest first. */
export function unbeaten(quality, side) {
  const better = side === "deletion" ? -1 : 1;
  const own = better * quality[side];
  const area = (name) => better * quality[`${side}_${name}`];
  const spread = { random: SPREAD * quality[`${side}_random_sd`], blob: 0, edges: 0 };
  const least = ROUNDING * Math.max(1, Math.abs(own));
  return OPPONENTS.filter((name) => own - area(name) <= spread[name] + least).sort((one, other) => area(other) - area(one));
}

/** The map beside its opponents: faster than all of them, or no faster than the strongest. */
function race(quality, side, unit) {
  if (quality[side] === undefined) return null;
  const shown = (value) => (unit === "probability" ? percent(value) : number(value));
  const areas = Object.fromEntries(OPPONENTS.map((name) => [name, shown(quality[`${side}_${name}`])]));
  areas.random += ` ± ${shown(quality[`${side}_random_sd`])}`;
  const values = { score: t(`quality.score.${unit}`), own: shown(quality[side]), ...areas };
  const rivals = unbeaten(quality, side);
  if (rivals.length === 0) return sentence(side, "good", values);
  const rival = { opponent: t(`quality.opponent.${rivals[0]}`), area: areas[rivals[0]] };
  return sentence(side, rivals.includes("random") ? "poor" : "fair", { ...values, ...rival });
}

function sensitivity({ sensitivity: change }) {
  return change === undefined ? null : sentence("steady", toneOf(change, 0.2, 0.6), { change: percent(change) });
}
