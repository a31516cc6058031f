// The tab Model: the card, the manifest, the parity of the maps and the plots of the audit.

import { ProblemError, showImage } from "/web/api.js";
import { el, fill } from "/web/dom.js";
import { hasKey, withKey } from "/web/key.js";
import { code, errorNotice, guessingNotice, heading, paragraph, section } from "/web/parts.js";
import { ofModel, state } from "/web/state.js";
import { facts, table } from "/web/tables.js";
import { number, rounded, t } from "/web/text.js";

const CARD = "CARD.md";
const MAX_LABELS = 20; // in the list of classes
const MAX_LISTED = 200; // of a list in the manifest

/** Draws the tab into `root`. */
export async function draw(root) {
  const card = el("section", { class: "sheet" }, paragraph(t("try.waiting"), "quiet"));
  const columns = el("div", { class: "two wide-left" }, el("div", {}, card, parity()), el("div", {}, modelFacts(), files()));
  fill(root, heading(t("model.title"), t("model.lead")), guessingNotice(state.manifest), columns, plots(), rawManifest());
  if (!(CARD in state.manifest.files)) {
    fill(card, paragraph(t("model.no-card")));
    return;
  }
  try {
    const article = (await getPage(ofModel("/model/card"))).querySelector("article");
    const link = el("a", { href: ofModel("/model/card") }, t("model.card"));
    for (const image of article.querySelectorAll("img")) showImage(image, image.getAttribute("src"));
    fill(card, !hasKey() && paragraph(link, "quiet"), el("div", { class: "card-text", lang: article.lang }, [...demoted(article).childNodes]));
  } catch (error) {
    fill(card, errorNotice(error, null, () => draw(root)));
  }
}

/** A page of the service as a document that runs no script; Trusted Types forbid parsing a text. */
function getPage(path) {
  return new Promise((resolve, reject) => {
    const page = new XMLHttpRequest();
    page.open("GET", path);
    page.responseType = "document";
    for (const [name, value] of Object.entries(withKey({ headers: { Accept: "text/html" } }).headers)) page.setRequestHeader(name, value);
    page.onload = () => (page.status === 200 ? resolve(page.response) : reject(new ProblemError({ code: "unknown", status: page.status })));
    page.onerror = () => reject(new ProblemError({ code: "unreachable" }));
    page.send();
  });
}

/** Lowers every heading of `article` by a level: the tab has the first one. */
function demoted(article) {
  for (const level of [5, 4, 3, 2, 1]) {
    for (const title of article.querySelectorAll(`h${level}`)) title.replaceWith(el(`h${level + 1}`, {}, [...title.childNodes]));
  }
  return article;
}

function plots() {
  const names = Object.keys(state.manifest.files).filter((name) => name.endsWith(".png"));
  if (names.length === 0) return paragraph(t("model.no-plots"), "quiet");
  const plot = (name) => {
    const caption = name.slice(0, -4).replaceAll(/[-_]/g, " ");
    const image = el("img", { alt: t("model.plot", { title: caption }), loading: "lazy" });
    showImage(image, ofModel(`/model/plots/${name}`));
    return el("figure", {}, image, el("figcaption", { class: "quiet" }, caption));
  };
  return section(t("model.plots"), el("div", { class: "plots" }, names.map(plot)));
}

function calibration({ temperature, entropy_power: power = 0, class_temperatures: factors = [] }) {
  const base = { temperature: number(temperature, 3), power: number(power, 3) };
  const rest = power ? t("model.entropy", base) : base.temperature;
  const ends = { least: number(Math.min(...factors), 2), most: number(Math.max(...factors), 2) };
  if (factors.length > 0) return t("model.by-class", { rest, ...ends });
  return temperature === 1 && !power ? t("model.uncalibrated") : rest;
}

/** Height and width of the network's input. */
const sizeOf = (input) => [input.size, input.size].flat().slice(0, 2).join(" × ");

function modelFacts() {
  const { name, version, labels, head, input, features, device, provenance } = state.manifest;
  const classes = labels.length > MAX_LABELS ? `${labels.slice(0, MAX_LABELS).join(", ")}, …` : labels.join(", ");
  return section(
    t("model.facts"),
    facts([
      [t("model.name"), name],
      [t("model.version"), el("code", {}, version)],
      [t("model.classes", { count: number(labels.length) }), classes],
      [t("model.input"), t("model.input.value", { size: sizeOf(input), rule: t(`resize.${input.resize}`) })],
      [t("model.head"), t(`head.${head}`)],
      [t("model.temperature"), calibration(state.manifest)],
      [t("model.features"), features],
      [t("model.device"), `${device.name} (${device.provider}, ${device.precision})`],
      [t("model.data"), provenance.data?.name],
      [t("model.network"), provenance.recipe?.network],
      [t("model.commit"), provenance.commit && el("code", {}, provenance.commit.slice(0, 12))],
    ]),
  );
}

function parity() {
  const entries = Object.entries(state.manifest.parity);
  if (entries.length === 0) return null;
  const row = ([method, { against, relative_difference: difference, cosine }]) => [method, against, rounded(difference), number(cosine, 6)];
  const headers = ["method", "against", "difference", "cosine"].map((key) => t(`model.${key}`));
  return section(t("model.parity"), paragraph(t("model.parity.lead"), "quiet"), table(t("model.parity"), headers, entries.map(row)));
}

const fileSize = (bytes) => (bytes < 1e5 ? `${number(bytes / 1000, 1)} kB` : `${number(bytes / 1e6)} MB`);

function files() {
  const digest = (sha256) => el("code", {}, `${sha256.slice(0, 16)}…`);
  const row = ([name, { sha256, length }]) => el("li", {}, el("b", {}, name), ` ${fileSize(length)} `, digest(sha256));
  const list = el("ul", { class: "files" }, Object.entries(state.manifest.files).map(row));
  return section(t("model.files"), paragraph(t("model.files.lead"), "quiet"), list);
}

/** A value of the manifest, of a long list the beginning: a browser takes seconds to lay out 21,841 labels. */
function shortened(_, value) {
  if (!Array.isArray(value) || value.length <= MAX_LISTED) return value;
  return [...value.slice(0, MAX_LABELS), t("model.raw.more", { more: number(value.length - MAX_LABELS) })];
}

const rawManifest = () => el("details", { class: "sheet" }, el("summary", {}, t("model.raw")), code(JSON.stringify(state.manifest, shortened, 2)));
