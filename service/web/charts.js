// Charts as plain SVG. Each has a name for who does not see it; the numbers stand beside it as text.

import { svg } from "/web/dom.js";

const [WIDTH, HEIGHT, PAD] = [640, 150, 6];

/** Lines over time: `series` are {values, kind}, equally long, NaN where nothing is known; the highest value is at the top. */
export function lines(series, label, least = 1) {
  const top = Math.max(least, ...series.flatMap(({ values }) => values.filter(Number.isFinite)));
  const length = Math.max(2, ...series.map(({ values }) => values.length));
  const x = (at) => (at / (length - 1)) * WIDTH;
  const y = (value) => HEIGHT - PAD - (value / top) * (HEIGHT - 2 * PAD);
  const grid = [0, 0.5, 1].map((share) => svg("line", { class: "rule", x1: 0, x2: WIDTH, y1: y(share * top), y2: y(share * top) }));
  const paths = series.flatMap(({ values, kind }) => {
    const points = values.map((value, at) => [x(at), y(value)]).filter(([, height]) => Number.isFinite(height));
    return points.length > 1 ? drawn(points, kind) : [];
  });
  const given = { class: "chart", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": label };
  return svg("svg", given, grid, paths);
}

function drawn(points, kind) {
  const line = points.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join(" L");
  const [first, last] = [points[0][0].toFixed(1), points.at(-1)[0].toFixed(1)];
  const area = `M${first},${HEIGHT - PAD} L${line} L${last},${HEIGHT - PAD} Z`;
  return [kind === "all" ? svg("path", { class: "area", d: area }) : null, svg("path", { class: `line ${kind}`, d: `M${line}` })];
}

const [SPAN, TALL] = [300, 22];
const [SHORTEST, LONGEST] = [0.25, 30_000]; // milliseconds: the bounds of the service's buckets

/** Three quantiles in milliseconds on a logarithmic scale: a bar from the first to the last, and a mark at each. */
export function range(quantiles, label) {
  const share = (value) => Math.min(1, Math.max(0, Math.log(value / SHORTEST) / Math.log(LONGEST / SHORTEST)));
  const x = (value) => 6 + (SPAN - 12) * share(value);
  const [middle, decades] = [TALL / 2, [1, 10, 100, 1000, 10_000]];
  const rules = decades.map((value) => svg("line", { class: "rule", x1: x(value), x2: x(value), y1: 0, y2: TALL }));
  const known = quantiles.filter(Number.isFinite);
  const marks = known.map((value, at) => svg("circle", { class: `mark q${at}`, cx: x(value), cy: middle, r: 5 - at * 0.8 }));
  const ends = known.length > 1 ? { x1: x(known[0]), x2: x(known.at(-1)), y1: middle, y2: middle } : null;
  const bar = ends && svg("line", { class: "span", ...ends });
  return svg("svg", { class: "range", viewBox: `0 0 ${SPAN} ${TALL}`, role: "img", "aria-label": label }, rules, bar, marks);
}
