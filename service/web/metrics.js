// Prometheus's text format, and what can be computed of it: rates of counters and quantiles of histograms.

const LINE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;
const ESCAPED = { "\\n": "\n", '\\"': '"', "\\\\": "\\" };

/** The samples of a scrape: name → list of {labels, value}. */
export function parse(text) {
  const found = new Map();
  for (const line of text.split("\n")) {
    const match = line.startsWith("#") ? null : LINE.exec(line);
    if (match === null) continue;
    const [, name, labels = "", value] = match;
    if (!found.has(name)) found.set(name, []);
    found.get(name).push({ labels: labelsOf(labels), value: number(value) });
  }
  return found;
}

const number = (text) => ({ "+Inf": Infinity, "-Inf": -Infinity, NaN })[text] ?? Number(text);

function labelsOf(text) {
  const plain = (value) => value.replace(/\\[n"\\]/g, (escaped) => ESCAPED[escaped]);
  return Object.fromEntries([...text.matchAll(LABEL)].map(([, name, value]) => [name, plain(value)]));
}

/** The sum of the samples called `name` that `where` takes. */
export function total(scrape, name, where = () => true) {
  return (scrape.get(name) ?? []).filter(({ labels }) => where(labels)).reduce((sum, { value }) => sum + value, 0);
}

/** The sums of the samples called `name` by the value of `label`. */
export function by(scrape, name, label) {
  const sums = new Map();
  for (const { labels, value } of scrape.get(name) ?? []) sums.set(labels[label], (sums.get(labels[label]) ?? 0) + value);
  return sums;
}

/** The histogram called `name` by the value of `label`: its buckets as [bound, how many up to it], from the least to +Inf. */
export function histograms(scrape, name, label) {
  const found = new Map();
  for (const { labels, value } of scrape.get(`${name}_bucket`) ?? []) {
    const key = labels[label] ?? "";
    if (!found.has(key)) found.set(key, new Map());
    const bound = number(labels.le);
    found.get(key).set(bound, (found.get(key).get(bound) ?? 0) + value);
  }
  return new Map([...found].map(([key, buckets]) => [key, [...buckets].sort(([a], [b]) => a - b)]));
}

/** The buckets of `now` without those of `then`; a service that started anew meanwhile counts from zero. */
export function since(now, then) {
  const before = new Map(then ?? []);
  const restarted = now.some(([bound, count]) => count < (before.get(bound) ?? 0));
  return restarted ? now : now.map(([bound, count]) => [bound, count - (before.get(bound) ?? 0)]);
}

/** How many a histogram holds. */
export const count = (buckets) => buckets.at(-1)?.[1] ?? 0;

/** A quantile 0…1, by straight lines between bounds as Prometheus's histogram_quantile does it; NaN of nothing. */
export function quantile(buckets, share) {
  const wanted = share * count(buckets);
  const at = buckets.findIndex(([, upTo]) => upTo >= wanted);
  if (at < 0 || count(buckets) === 0) return NaN;
  const [bound, upTo] = buckets[at];
  const [start, before] = at > 0 ? buckets[at - 1] : [0, 0];
  if (bound === Infinity) return start; // beyond the last bound: at least that
  return upTo === before ? bound : start + ((bound - start) * (wanted - before)) / (upTo - before);
}
