// The tab Watch: rates, latencies, load, classes and explanations, from the same /metrics that Prometheus reads.

import { getText } from "/web/api.js";
import { lineChart, quantileChart } from "/web/charts.js";
import { el, fill } from "/web/dom.js";
import { count, growth, histograms, parse, quantile, total, totalsBy } from "/web/metrics.js";
import { bars, heading, paragraph, section } from "/web/parts.js";
import { state } from "/web/state.js";
import { facts, table } from "/web/tables.js";
import { duration, errorText, number, percent, rounded, t } from "/web/text.js";

const INTERVAL = 2000; // milliseconds between scrapes
const MAX_SCRAPES = 150; // five minutes
const MINUTE = 30; // scrapes
const TEN_SECONDS = 5; // scrapes
const MAX_CLASSES = 12;
const MUCH_DRIFT = 0.25; // from here the alert counts
const EVERY_CLASS = "*"; // where the metrics do not count each class
const STAGES = ["read", "decode", "queue", "infer", "explain", "render", "encode"];
const QUANTILES = [0.5, 0.95, 0.99];
const [REQUESTS, SECONDS] = ["candor_requests_total", "candor_request_duration_seconds"];
const parts = {};
let scrapes = []; // {at: milliseconds, samples}
let timer = null;
let period = "start"; // or "minute"

/** Draws the tab into `root`. */
export function draw(root) {
  for (const name of ["tiles", "rate", "latency", "load", "classes", "explained", "outage"]) parts[name] = el("div", { class: name });
  parts.outage.setAttribute("role", "status");
  fill(
    root,
    heading(t("watch.title"), [t("watch.lead"), ...grafanaLink()]),
    parts.outage,
    parts.tiles,
    section(t("watch.rate"), parts.rate),
    section(t("watch.latency"), periodChoice(), parts.latency),
    el("div", { class: "two" }, section(t("watch.load"), parts.load), section(t("watch.classes"), parts.classes)),
    section(t("watch.explained"), parts.explained),
  );
  if (scrapes.length > 0) show();
}

/** Starts the scrapes. */
export function enter() {
  clearInterval(timer);
  timer = setInterval(() => document.hidden || scrape(), INTERVAL);
  scrape();
}

/** Stops the scrapes; they are dropped, because a line over the gap would be wrong. */
export function leave() {
  clearInterval(timer);
  scrapes = [];
}

async function scrape() {
  try {
    scrapes = [...scrapes, { at: performance.now(), samples: parse(await getText("/metrics")) }].slice(-MAX_SCRAPES);
    parts.outage.textContent = "";
    show();
  } catch (error) {
    parts.outage.textContent = errorText(error).title;
  }
}

function grafanaLink() {
  const url = document.querySelector("meta[name=candor-grafana]").content;
  return url ? [" ", el("a", { href: url, rel: "noreferrer" }, t("watch.grafana"))] : [];
}

function periodChoice() {
  const choice = (name) => {
    const radio = el("input", { type: "radio", name: "period", value: name, checked: name === period });
    radio.addEventListener("change", () => {
      period = name;
      show();
    });
    return el("label", { class: "check" }, radio, t(`watch.period.${name}`));
  };
  return el("fieldset", { class: "row" }, el("legend", {}, t("watch.period")), choice("start"), choice("minute"));
}

const latest = () => scrapes.at(-1).samples;

/** The samples at the beginning of the period; none at the start of the service. */
const earliest = () => (period === "minute" ? scrapes.at(-Math.min(MINUTE, scrapes.length)).samples : new Map());

function show() {
  fill(parts.tiles, tiles());
  fill(parts.rate, rate());
  fill(parts.latency, latency());
  fill(parts.load, load());
  fill(parts.classes, classes());
  fill(parts.explained, explained());
}

/** Growth per second between scrapes; NaN where a counter fell, because the service restarted. */
function rates(name, matches) {
  return scrapes.slice(1).map(({ at, samples }, index) => {
    const before = scrapes[index];
    const grown = total(samples, name, matches) - total(before.samples, name, matches);
    return grown < 0 ? NaN : (1000 * grown) / (at - before.at);
  });
}

const isError = ({ code }) => code >= "500";
const isChosen = ({ model }) => model === state.manifest.name;
const isRejected = ({ code }) => code >= "400" && code < "500"; // the caller has to change something, or to wait

function tiles() {
  const recent = (values) => mean(values.slice(-TEN_SECONDS));
  const [rate, errorRate] = [recent(rates(REQUESTS)), recent(rates(REQUESTS, isError))];
  const [requests, errors, rejected] = [undefined, isError, isRejected].map((matches) => total(latest(), REQUESTS, matches));
  const [waiting, running] = [total(latest(), "candor_queue_depth"), total(latest(), "candor_in_flight")];
  return [
    tile("rate", Number.isFinite(rate) ? `${rounded(rate)}/s` : "–", { count: number(requests) }),
    tile("errors", ratio(errorRate, rate), { share: ratio(errors, requests), rejected: number(rejected) }),
    tile("latency", duration(1000 * quantile(imageLatencies(), 0.99))),
    tile("queue", number(waiting), { running: number(running) }),
  ];
}

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
const ratio = (part, all) => (all > 0 ? percent(part / all) : "–");

function tile(name, value, values = {}) {
  const note = t(`tile.${name}.note`, values);
  return el("div", { class: "tile" }, paragraph(t(`tile.${name}`), "name"), paragraph(value, "value"), paragraph(note, "quiet"));
}

/** One histogram of all requests with images. */
function imageLatencies() {
  const routes = [...histograms(latest(), SECONDS, "route")].filter(([route]) => /predict|explain|infer/.test(route));
  const all = routes.map(([, buckets]) => buckets);
  return (all[0] ?? []).map(([bound], index) => [bound, all.reduce((sum, buckets) => sum + buckets[index][1], 0)]);
}

function rate() {
  const [all, errors] = [rates(REQUESTS), rates(REQUESTS, isError)];
  if (all.length < 2) return paragraph(t("watch.waiting"), "quiet");
  const most = Math.max(1, ...all.filter(Number.isFinite));
  const label = t("watch.rate.label", { now: rounded(all.at(-1)), most: rounded(most) });
  const series = [{ values: all, kind: "all" }, { values: errors, kind: "errors" }];
  return [lineChart(series, label), el("p", { class: "ends quiet" }, el("span", {}, label), key())];
}

const key = () => el("span", { class: "key" }, ["all", "errors"].flatMap((name) => [el("i", { class: name }), t(`watch.${name}`)]));

function latency() {
  const routes = rows(SECONDS, "route", (route) => route);
  const stages = rows("candor_stage_duration_seconds", "stage", (stage) => t(`stage.${stage}`));
  stages.sort((a, b) => STAGES.indexOf(a.key) - STAGES.indexOf(b.key));
  const models = rows("candor_model_request_duration_seconds", "model", (model) => model);
  const several = state.models.length > 1 && quantileTable(t("tab.model"), models);
  return [quantileTable(t("watch.route"), routes), several, quantileTable(t("watch.stage"), stages)];
}

/** The histograms of the period by the value of `label`, without empty ones. */
function rows(name, label, titleOf) {
  const before = histograms(earliest(), name, label);
  return [...histograms(latest(), name, label)]
    .map(([key, buckets]) => ({ key, title: titleOf(key), buckets: growth(buckets, before.get(key)) }))
    .filter(({ buckets }) => count(buckets) > 0);
}

function quantileTable(name, entries) {
  if (entries.length === 0) return paragraph(t("watch.none", { name }), "quiet");
  const row = ({ title, buckets }) => {
    const times = QUANTILES.map((share) => 1000 * quantile(buckets, share));
    const texts = times.map(duration);
    const chart = quantileChart(times, t("watch.range", { name: title, times: texts.join(", ") }));
    return [title, number(count(buckets)), ...texts, el("td", { class: "wide" }, chart)];
  };
  return table(name, [name, t("watch.count"), "p50", "p95", "p99", t("watch.scale")], entries.map(row));
}

function load() {
  const depths = scrapes.map(({ samples }) => total(samples, "candor_queue_depth"));
  const rejected = number(total(latest(), "candor_rejected_total"));
  const label = t("watch.queue.label", { now: number(depths.at(-1)), most: number(Math.max(...depths)) });
  const chart = lineChart([{ values: depths, kind: "all" }], label);
  return [chart, paragraph(label, "quiet"), facts([...batchSizes(), [t("watch.rejected"), rejected]])];
}

/** The mean number of images in a batch, by lane. */
function batchSizes() {
  const [images, batches] = [grown("candor_batch_size_sum", "lane"), grown("candor_batch_size_count", "lane")];
  const size = (lane) => (batches.get(lane) > 0 ? rounded(images.get(lane) / batches.get(lane)) : "–");
  return [...images.keys()].map((lane) => [t("watch.batch", { lane: t(`lane.${lane}`) }), size(lane)]);
}

/** The growth of a counter in the period, by the value of `label`. */
function grown(name, label, matches) {
  const before = totalsBy(earliest(), name, label, matches);
  return new Map([...totalsBy(latest(), name, label, matches)].map(([key, value]) => [key, Math.max(0, value - (before.get(key) ?? 0))]));
}

function classes() {
  const counts = [...grown("candor_predictions_total", "label", isChosen)].filter(([, value]) => value > 0);
  if (counts.some(([label]) => label === EVERY_CLASS)) return paragraph(t("watch.many-classes"), "quiet");
  const all = counts.reduce((sum, [, value]) => sum + value, 0);
  if (all === 0) return paragraph(t("watch.no-classes"), "quiet");
  const most = counts.sort(([, a], [, b]) => b - a).slice(0, MAX_CLASSES);
  return bars(most.map(([label, value]) => [label, value / all]), { class: "bars plain-bars" });
}

/** How often answers were explained in the period, and how good the maps were. */
function explained() {
  const reasons = [...grown("candor_explained_total", "reason")].filter(([, value]) => value > 0);
  const sum = (pairs) => pairs.reduce((all, [, value]) => all + value, 0);
  const share = ratio(sum(reasons), sum([...grown("candor_predictions_total", "label")]));
  const listed = reasons.map(([reason, value]) => t(`reason.${reason}`, { count: number(value) })).join(", ");
  const titleOf = (name) => state.methods.find((method) => method.name === name)?.title ?? name;
  const cosines = rows("candor_class_cosine", "method", titleOf).map(({ title, buckets }) => [
    t("watch.cosine", { method: title }),
    rounded(quantile(buckets, 0.5)),
  ]);
  const often = reasons.length > 0 ? t("watch.explained.share", { share, reasons: listed }) : t("watch.unexplained");
  return [paragraph(often), facts([...cosines, [t("watch.map-drift"), mapDrift()]])];
}

/** The largest drift of the latest maps, in words. */
function mapDrift() {
  if (!state.manifest.map_distribution) return t("watch.map-drift.none");
  const indices = (latest().get("candor_map_drift") ?? []).filter(({ labels, value }) => isChosen(labels) && Number.isFinite(value));
  if (indices.length === 0) return t("watch.map-drift.few");
  const { labels, value } = indices.reduce((most, each) => (each.value > most.value ? each : most));
  return t(value > MUCH_DRIFT ? "watch.map-drift.far" : "watch.map-drift.near", { index: rounded(value), of: t(`of.${labels.of}`) });
}
