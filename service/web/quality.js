// What the measures of a map say, in words; docs/explanations.md says where they mislead.

import { number, percent, t } from "/web/text.js";

/** Sentences about an explanation's quality as {tone: good | fair | poor, text}. */
export function sentences(quality) {
  return [adds, specific, linear, removed, added, steady].map((judge) => judge(quality)).filter((found) => found !== null);
}

const told = (name, tone, values) => ({ tone, text: t(`quality.${name}.${tone}`, values) });

/** good up to the first limit, fair up to the second, poor beyond. */
function toned(value, first, second) {
  if (value <= first) return "good";
  return value <= second ? "fair" : "poor";
}

function adds({ completeness_gap: gap }) {
  return gap === undefined ? null : told("adds", toned(gap, 0.05, 0.2), { gap: percent(gap) });
}

function specific({ class_cosine: cosine }) {
  return cosine === undefined ? null : told("specific", toned(cosine, 0.5, 0.9), { cosine: number(cosine) });
}

function linear({ surrogate_r2: r2 }) {
  return r2 === undefined ? null : told("linear", toned(1 - r2, 0.2, 0.5), { r2: percent(Math.max(0, r2)) });
}

function removed({ deletion, deletion_random: random }) {
  if (deletion === undefined) return null;
  return told("deletion", deletion < random ? "good" : "poor", { share: percent(deletion), random: percent(random) });
}

function added({ insertion, insertion_random: random }) {
  if (insertion === undefined) return null;
  return told("insertion", insertion > random ? "good" : "poor", { share: percent(insertion), random: percent(random) });
}

function steady({ sensitivity }) {
  return sensitivity === undefined ? null : told("steady", toned(sensitivity, 0.2, 0.6), { change: percent(sensitivity) });
}
