// Model: what it is, its card, and the manifest that everything else is bound to.

import { text } from "/web/api.js";
import { el, fill } from "/web/dom.js";
import { markdown } from "/web/markdown.js";
import { code, facts, sheet, table, title, trouble, words } from "/web/parts.js";
import { state } from "/web/state.js";
import { figure, number, t } from "/web/text.js";

const CARD = "CARD.md";
const MOST_LABELS = 20; // that are named

/** Draws the tab into `root`. */
export async function draw(root) {
  const card = el("section", { class: "sheet card-text" }, words(t("try.waiting"), "quiet"));
  const columns = el("div", { class: "two wide-left" }, el("div", {}, card, parity()), el("div", {}, what(), files()));
  fill(root, title(t("model.title"), t("model.lead")), columns, plots(), raw());
  try {
    const there = CARD in state.manifest.files;
    fill(card, there ? markdown(await text("/model/card"), address) : words(t("model.no-card")));
  } catch (error) {
    fill(card, trouble(error.message));
  }
}

const isPlot = (name) => name.endsWith(".png");

/** A card may link the web, and the plots that are in the bundle with it. */
function address(link) {
  if (/^https?:\/\//.test(link)) return link;
  return isPlot(link) && link in state.manifest.files ? `/model/plots/${link}` : null;
}

/** The plots of the audit, where the bundle has them. */
function plots() {
  const names = Object.keys(state.manifest.files).filter(isPlot);
  if (names.length === 0) return words(t("model.no-plots"), "quiet");
  const plot = (name) => {
    const caption = name.slice(0, -4).replaceAll(/[-_]/g, " ");
    const image = el("img", { src: `/model/plots/${name}`, alt: t("model.plot", { title: caption }), loading: "lazy" });
    return el("figure", {}, image, el("figcaption", { class: "quiet" }, caption));
  };
  return sheet(t("model.plots"), el("div", { class: "plots" }, names.map(plot)));
}

function calibration(temperature, power) {
  if (power) return t("model.entropy", { temperature: number(temperature, 3), power: number(power, 3) });
  return temperature === 1 ? t("model.uncalibrated") : number(temperature, 3);
}

function what() {
  const { name, version, labels, input, temperature, entropy_power = 0, features, device, provenance } = state.manifest;
  const named = labels.length > MOST_LABELS ? `${labels.slice(0, MOST_LABELS).join(", ")}, …` : labels.join(", ");
  return sheet(
    t("model.facts"),
    facts([
      [t("model.name"), name],
      [t("model.version"), el("code", {}, version)],
      [t("model.classes", { count: labels.length }), named],
      [t("model.input"), t("model.input.value", { size: input.size, rule: t(`resize.${input.resize}`) })],
      [t("model.temperature"), calibration(temperature, entropy_power)],
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
  const row = ([method, { against, relative_difference: difference, cosine }]) => [method, against, figure(difference), number(cosine, 6)];
  const heads = ["method", "against", "difference", "cosine"].map((key) => t(`model.${key}`));
  return sheet(t("model.parity"), words(t("model.parity.lead"), "quiet"), table(t("model.parity"), heads, entries.map(row)));
}

const size = (bytes) => (bytes < 1e5 ? `${number(bytes / 1000, 1)} kB` : `${number(bytes / 1e6)} MB`);

function files() {
  const digest = (sha256) => el("code", {}, `${sha256.slice(0, 16)}…`);
  const row = ([name, { sha256, length }]) => el("li", {}, el("b", {}, name), ` ${size(length)} `, digest(sha256));
  const list = el("ul", { class: "files" }, Object.entries(state.manifest.files).map(row));
  return sheet(t("model.files"), words(t("model.files.lead"), "quiet"), list);
}

const raw = () => el("details", { class: "sheet" }, el("summary", {}, t("model.raw")), code(JSON.stringify(state.manifest, null, 2)));
