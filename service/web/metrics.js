// Prometheus's text format, rates of counters and quantiles of histograms.

const LINE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;
const ESCAPED = { "\\n": "\n", '\\"': '"', "\\\\": "\\" };

/** The samples of a scrape: name → list of {labels, value}. */
export function parse(text) {
  const samples = new Map();
  for (const line of text.split("\n")) {
    const match = line.startsWith("#") ? null : LINE.exec(line);
    if (match === null) continue;
    const [, name, labels = "", value] = match;
    if (!samples.has(name)) samples.set(name, []);
    samples.get(name).push({ labels: parseLabels(labels), value: parseNumber(value) });
  }
  return samples;
}

const parseNumber = (text) => ({ "+Inf": Infinity, "-Inf": -Infinity, NaN })[text] ?? Number(text);

function parseLabels(text) {
  const unescape = (value) => value.replace(/\\[n"\\]/g, (escaped) => ESCAPED[escaped]);
  return Object.fromEntries([...text.matchAll(LABEL)].map(([, name, value]) => [name, unescape(value)]));
}

/** The sum of the samples called `name` whose labels match. */
export function total(scrape, name, matches = () => true) {
  return (scrape.get(name) ?? []).filter(({ labels }) => matches(labels)).reduce((sum, { value }) => sum + value, 0);
}

/** The sums of the samples called `name` whose labels match, by the value of `label`. */
export function totalsBy(scrape, name, label, matches = () => true) {
  const sums = new Map();
  for (const { labels, value } of scrape.get(name) ?? []) if (matches(labels)) sums.set(labels[label], (sums.get(labels[label]) ?? 0) + value);
  return sums;
}

/** The histogram called `name` by the value of `label`: buckets [bound, count up to it], ascending. */
export function histograms(scrape, name, label) {
  const byKey = new Map();
  for (const { labels, value } of scrape.get(`${name}_bucket`) ?? []) {
    const key = labels[label] ?? "";
    if (!byKey.has(key)) byKey.set(key, new Map());
    const bound = parseNumber(labels.le);
    byKey.get(key).set(bound, (byKey.get(key).get(bound) ?? 0) + value);
  }
  return new Map([...byKey].map(([key, buckets]) => [key, [...buckets].sort(([a], [b]) => a - b)]));
}

/** The growth of a histogram; all of it if the service restarted in between. */
export function growth(now, earlier) {
  const before = new Map(earlier ?? []);
  const restarted = now.some(([bound, count]) => count < (before.get(bound) ?? 0));
  return restarted ? now : now.map(([bound, count]) => [bound, count - (before.get(bound) ?? 0)]);
}

/** The number of observations in a histogram. */
export const count = (buckets) => buckets.at(-1)?.[1] ?? 0;

/** A quantile, linear between bounds like Prometheus's histogram_quantile; NaN of no observations. */
export function quantile(buckets, share) {
  const rank = share * count(buckets);
  const index = buckets.findIndex(([, upTo]) => upTo >= rank);
  if (index < 0 || count(buckets) === 0) return NaN;
  const [bound, upTo] = buckets[index];
  const [start, before] = index > 0 ? buckets[index - 1] : [Math.min(0, bound), 0];
  if (bound === Infinity) return start; // the quantile is at least the last bound
  return upTo === before ? bound : start + ((bound - start) * (rank - before)) / (upTo - before);
}
