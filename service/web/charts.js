// Charts as SVG. Each has an accessible name, and its numbers stand beside it as text.

import { svg } from "/web/dom.js";

const [WIDTH, HEIGHT, PADDING] = [640, 150, 6];

/** Lines over time: `series` are {values, kind} of equal length; NaN is a gap. */
export function lineChart(series, label, leastTop = 1) {
  const top = Math.max(leastTop, ...series.flatMap(({ values }) => values.filter(Number.isFinite)));
  const length = Math.max(2, ...series.map(({ values }) => values.length));
  const x = (index) => (index / (length - 1)) * WIDTH;
  const y = (value) => HEIGHT - PADDING - (value / top) * (HEIGHT - 2 * PADDING);
  const grid = [0, 0.5, 1].map((share) => svg("line", { class: "rule", x1: 0, x2: WIDTH, y1: y(share * top), y2: y(share * top) }));
  const paths = series.flatMap(({ values, kind }) => {
    const points = values.map((value, index) => [x(index), y(value)]).filter(([, height]) => Number.isFinite(height));
    return points.length > 1 ? line(points, kind) : [];
  });
  const attributes = { class: "chart", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": label };
  return svg("svg", attributes, grid, paths);
}

function line(points, kind) {
  const path = points.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join(" L");
  const [first, last] = [points[0][0].toFixed(1), points.at(-1)[0].toFixed(1)];
  const area = `M${first},${HEIGHT - PADDING} L${path} L${last},${HEIGHT - PADDING} Z`;
  return [kind === "all" ? svg("path", { class: "area", d: area }) : null, svg("path", { class: `line ${kind}`, d: `M${path}` })];
}

const [RANGE_WIDTH, RANGE_HEIGHT] = [300, 22];
const [SHORTEST, LONGEST] = [0.25, 30_000]; // milliseconds, as the buckets of the service

/** Three quantiles in milliseconds on a logarithmic axis: a bar, with a mark at each. */
export function quantileChart(quantiles, label) {
  const share = (value) => Math.min(1, Math.max(0, Math.log(value / SHORTEST) / Math.log(LONGEST / SHORTEST)));
  const x = (value) => 6 + (RANGE_WIDTH - 12) * share(value);
  const [middle, decades] = [RANGE_HEIGHT / 2, [1, 10, 100, 1000, 10_000]];
  const rules = decades.map((value) => svg("line", { class: "rule", x1: x(value), x2: x(value), y1: 0, y2: RANGE_HEIGHT }));
  const known = quantiles.filter(Number.isFinite);
  const marks = known.map((value, index) => svg("circle", { class: `mark q${index}`, cx: x(value), cy: middle, r: 5 - index * 0.8 }));
  const ends = known.length > 1 ? { x1: x(known[0]), x2: x(known.at(-1)), y1: middle, y2: middle } : null;
  const bar = ends && svg("line", { class: "span", ...ends });
  return svg("svg", { class: "range", viewBox: `0 0 ${RANGE_WIDTH} ${RANGE_HEIGHT}`, role: "img", "aria-label": label }, rules, bar, marks);
}
