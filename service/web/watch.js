// Watch: what the service does now, from /metrics, which any Prometheus reads too.

import { text } from "/web/api.js";
import { el, fill } from "/web/dom.js";
import { lines, range } from "/web/charts.js";
import { by, count, histograms, parse, quantile, since, total } from "/web/metrics.js";
import { bars, facts, sheet, table, title, words } from "/web/parts.js";
import { duration, figure, percent, t } from "/web/text.js";

const EVERY = 2000; // milliseconds
const KEPT = 150; // scrapes: five minutes
const RECENT = 30; // scrapes: one minute
const MOST_CLASSES = 12;
const STAGES = ["read", "decode", "queue", "infer", "explain", "render", "encode"];
const QUANTILES = [0.5, 0.95, 0.99];
const parts = {};
let scrapes = []; // {at: milliseconds, found}
let timer = null;
let window_ = "start";

/** Draws the tab into `root`. */
export function draw(root) {
  for (const name of ["tiles", "rate", "latency", "load", "classes", "trouble"]) parts[name] = el("div", { class: name });
  parts.trouble.setAttribute("role", "status");
  fill(
    root,
    title(t("watch.title"), [t("watch.lead"), ...grafana()]),
    parts.trouble,
    parts.tiles,
    sheet(t("watch.rate"), parts.rate),
    sheet(t("watch.latency"), windows(), parts.latency),
    el("div", { class: "two" }, sheet(t("watch.load"), parts.load), sheet(t("watch.classes"), parts.classes)),
  );
  if (scrapes.length > 0) show();
}

/** Begins to look. */
export function enter() {
  clearInterval(timer);
  timer = setInterval(() => document.hidden || look(), EVERY);
  look();
}

/** Looks no longer: the next look is not joined to the last by a line. */
export function leave() {
  clearInterval(timer);
  scrapes = [];
}

async function look() {
  try {
    scrapes = [...scrapes, { at: performance.now(), found: parse(await text("/metrics")) }].slice(-KEPT);
    parts.trouble.textContent = "";
    show();
  } catch (error) {
    parts.trouble.textContent = error.message;
  }
}

function grafana() {
  const url = document.querySelector("meta[name=candor-grafana]").content;
  return url ? [" ", el("a", { href: url, rel: "noreferrer" }, t("watch.grafana"))] : [];
}

function windows() {
  const one = (name) => {
    const chosen = el("input", { type: "radio", name: "window", value: name, checked: name === window_ });
    chosen.addEventListener("change", () => {
      window_ = name;
      show();
    });
    return el("label", { class: "check" }, chosen, t(`watch.window.${name}`));
  };
  return el("fieldset", { class: "row" }, el("legend", {}, t("watch.window")), one("start"), one("minute"));
}

const last = () => scrapes.at(-1).found;

/** What the chosen window begins with; nothing for the start of the service. */
const begin = () => (window_ === "minute" ? scrapes.at(-Math.min(RECENT, scrapes.length)).found : new Map());

function show() {
  fill(parts.tiles, tiles());
  fill(parts.rate, rate());
  fill(parts.latency, latency());
  fill(parts.load, load());
  fill(parts.classes, classes());
}

/** Per second between each scrape and the one before; a counter that fell began anew. */
function rates(name, where) {
  return scrapes.slice(1).map(({ at, found }, index) => {
    const grown = total(found, name, where) - total(scrapes[index].found, name, where);
    return grown < 0 ? NaN : (1000 * grown) / (at - scrapes[index].at);
  });
}

const isError = ({ code }) => code >= "400";
const [requests, seconds] = ["candor_requests_total", "candor_request_duration_seconds"];

function tiles() {
  const recent = (values) => average(values.slice(-5)); // ten seconds
  const [all, failed] = [recent(rates(requests)), recent(rates(requests, isError))];
  const [sum, errors] = [total(last(), requests), total(last(), requests, isError)];
  const [waiting, running] = [total(last(), "candor_queue_depth"), total(last(), "candor_in_flight")];
  return [
    tile("rate", Number.isFinite(all) ? `${figure(all)}/s` : "–", { count: figure(sum) }),
    tile("errors", share(failed, all), { share: share(errors, sum) }),
    tile("latency", duration(1000 * quantile(merged(), 0.99)), {}),
    tile("queue", figure(waiting), { running: figure(running) }),
  ];
}

const average = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
const share = (part, all) => (all > 0 ? percent(part / all) : "–");

function tile(name, value, values) {
  return el("div", { class: "tile" }, words(t(`tile.${name}`), "name"), words(value, "value"), words(t(`tile.${name}.note`, values), "quiet"));
}

/** The time of predictions and explanations together. */
function merged() {
  const routes = [...histograms(last(), seconds, "route")].filter(([route]) => /predict|explain|infer/.test(route));
  const asked = routes.map(([, buckets]) => buckets);
  return (asked[0] ?? []).map(([bound], at) => [bound, asked.reduce((sum, buckets) => sum + buckets[at][1], 0)]);
}

function rate() {
  const [all, failed] = [rates(requests), rates(requests, isError)];
  if (all.length < 2) return words(t("watch.waiting"), "quiet");
  const top = Math.max(1, ...all.filter(Number.isFinite));
  const label = t("watch.rate.label", { now: figure(all.at(-1)), most: figure(top) });
  const series = [{ values: all, kind: "all" }, { values: failed, kind: "errors" }];
  return [lines(series, label), el("p", { class: "ends quiet" }, el("span", {}, label), key())];
}

const key = () => el("span", { class: "key" }, ["all", "errors"].flatMap((name) => [el("i", { class: name }), t(`watch.${name}`)]));

function latency() {
  const routes = rows(seconds, "route", (route) => route);
  const stages = rows("candor_stage_duration_seconds", "stage", (stage) => t(`stage.${stage}`));
  stages.sort((a, b) => STAGES.indexOf(a.key) - STAGES.indexOf(b.key));
  return [quantiles(t("watch.route"), routes), quantiles(t("watch.stage"), stages)];
}

function rows(name, label, named) {
  const before = histograms(begin(), name, label);
  return [...histograms(last(), name, label)]
    .map(([key, buckets]) => ({ key, named: named(key), buckets: since(buckets, before.get(key)) }))
    .filter(({ buckets }) => count(buckets) > 0);
}

function quantiles(name, found) {
  if (found.length === 0) return words(t("watch.none", { name }), "quiet");
  const row = ({ named, buckets }) => {
    const times = QUANTILES.map((part) => 1000 * quantile(buckets, part));
    const told = times.map(duration);
    const drawing = range(times, t("watch.range", { name: named, times: told.join(", ") }));
    return [named, figure(count(buckets)), ...told, el("td", { class: "wide" }, drawing)];
  };
  return table(name, [name, t("watch.count"), "p50", "p95", "p99", t("watch.scale")], found.map(row));
}

function load() {
  const depth = scrapes.map(({ found }) => total(found, "candor_queue_depth"));
  const refused = figure(total(last(), "candor_rejected_total"));
  const label = t("watch.queue.label", { now: figure(depth.at(-1)), most: figure(Math.max(...depth)) });
  return [lines([{ values: depth, kind: "all" }], label), words(label, "quiet"), facts([...batches(), [t("watch.refused"), refused]])];
}

/** How many pictures ran together, by lane. */
function batches() {
  const [pictures, runs] = [grown("candor_batch_size_sum", "lane"), grown("candor_batch_size_count", "lane")];
  const mean = (lane) => (runs.get(lane) > 0 ? figure(pictures.get(lane) / runs.get(lane)) : "–");
  return [...pictures.keys()].map((lane) => [t("watch.batch", { lane: t(`lane.${lane}`) }), mean(lane)]);
}

/** How far a counter grew in the chosen window, by the value of `label`. */
function grown(name, label) {
  const before = by(begin(), name, label);
  return new Map([...by(last(), name, label)].map(([key, value]) => [key, Math.max(0, value - (before.get(key) ?? 0))]));
}

function classes() {
  const seen = [...grown("candor_predictions_total", "label")].filter(([, value]) => value > 0);
  const all = seen.reduce((sum, [, value]) => sum + value, 0);
  if (all === 0) return words(t("watch.no-classes"), "quiet");
  const most = seen.sort(([, a], [, b]) => b - a).slice(0, MOST_CLASSES);
  return bars(most.map(([label, value]) => [label, value / all]), { class: "bars plain-bars" });
}
