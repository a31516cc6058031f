// Words: one file of strings for each language, and numbers as that language writes them.

import { byId } from "/web/dom.js";

const LANGUAGES = { en: "English", zh: "中文" };
const stored = {
  get: (key) => attempt(() => localStorage.getItem(key)),
  set: (key, value) => attempt(() => localStorage.setItem(key, value)),
};
let strings = {};

function attempt(work) {
  try {
    return work();
  } catch {
    return null; // storage may be forbidden: the choice then lasts as long as the page
  }
}

/** The language of the page: the chosen one, or the first that the browser asks for and that there is. */
export function language() {
  const chosen = stored.get("language");
  if (chosen in LANGUAGES) return chosen;
  return navigator.languages.map((tag) => tag.slice(0, 2)).find((tag) => tag in LANGUAGES) ?? "en";
}

/** Loads the strings of `tag`, and writes them wherever the document asks for one. */
export async function speak(tag) {
  strings = await (await fetch(`/web/${tag}.json`)).json();
  document.documentElement.lang = tag;
  for (const node of document.querySelectorAll("[data-text]")) node.textContent = t(node.dataset.text);
  for (const node of document.querySelectorAll("[data-label]")) node.setAttribute("aria-label", t(node.dataset.label));
}

/** The string called `key`, with {names} replaced by `values`. */
export function t(key, values = {}) {
  return (strings[key] ?? key).replace(/\{(\w+)\}/g, (all, name) => values[name] ?? all);
}

/** The string called `key`, or `other` where this language has none: what the server says in English. */
export const or = (key, other) => strings[key] ?? other;

const shown = (value, options) => new Intl.NumberFormat(document.documentElement.lang, options).format(value);

/** A number with at most `digits` behind the point. */
export const number = (value, digits = 2) => shown(value, { maximumFractionDigits: digits });

/** A number of about three figures, whatever its size, with its sign if `signed`. */
export function figure(value, signed = false) {
  const notation = value !== 0 && Math.abs(value) < 0.001 ? "scientific" : "standard";
  return shown(value, { maximumSignificantDigits: 3, signDisplay: signed ? "exceptZero" : "auto", notation });
}

/** A share as percent; what would round to nothing or to all is said to be below or above. */
export function percent(share) {
  if (share > 0 && share < 0.001) return `<${shown(0.001, { style: "percent", maximumFractionDigits: 1 })}`;
  if (share < 1 && share > 0.999) return `>${shown(0.999, { style: "percent", maximumFractionDigits: 1 })}`;
  return shown(share, { style: "percent", maximumFractionDigits: 1 });
}

/** Milliseconds, or seconds where those are many. */
export function duration(milliseconds) {
  if (!Number.isFinite(milliseconds)) return "–";
  return milliseconds < 1000 ? `${figure(milliseconds)} ms` : `${figure(milliseconds / 1000)} s`;
}

/** Makes the buttons for language and theme work; `again` draws the page anew in the other language. */
export function settings(again) {
  const [languages, themes] = [byId("language"), byId("theme")];
  const name = () => {
    languages.textContent = LANGUAGES[other(language())];
    languages.lang = other(language());
    themes.textContent = t(`theme.${theme()}`);
  };
  languages.addEventListener("click", async () => {
    stored.set("language", other(language()));
    await again();
    name();
  });
  themes.addEventListener("click", () => {
    turn();
    name();
  });
  name();
}

const other = (tag) => (tag === "en" ? "zh" : "en");
const theme = () => document.documentElement.dataset.theme ?? "system";

function turn() {
  const next = { system: "light", light: "dark", dark: "system" }[theme()];
  if (next === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = next;
  stored.set("theme", next);
}
