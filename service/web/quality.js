// The measures of a map in words; docs/explanations.md lists when each one misleads.

import { number, percent, t } from "/web/text.js";

/** The sentences about the quality of an explanation, as {tone: good | fair | poor, text}. */
export function sentences(quality) {
  return [completeness, agreement, classCosine, linearity, deletion, insertion, sensitivity].map((judge) => judge(quality)).filter((sentence) => sentence !== null);
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

function classCosine({ class_cosine: cosine }) {
  return cosine === undefined ? null : sentence("specific", toneOf(cosine, 0.5, 0.9), { cosine: number(cosine) });
}

function linearity({ surrogate_r2: r2 }) {
  return r2 === undefined ? null : sentence("linear", toneOf(1 - r2, 0.2, 0.5), { r2: percent(Math.max(0, r2)) });
}

function deletion({ deletion: share, deletion_random: random }) {
  if (share === undefined) return null;
  return sentence("deletion", share < random ? "good" : "poor", { share: percent(share), random: percent(random) });
}

function insertion({ insertion: share, insertion_random: random }) {
  if (share === undefined) return null;
  return sentence("insertion", share > random ? "good" : "poor", { share: percent(share), random: percent(random) });
}

function sensitivity({ sensitivity: change }) {
  return change === undefined ? null : sentence("steady", toneOf(change, 0.2, 0.6), { change: percent(change) });
}
