// Texts and numbers in the language of the page; the controls for language and theme.

import { byId, el, fill } from "/web/dom.js";

// Both names stay legible where a system has no Chinese font.
const LANGUAGES = { zh: "中文", en: "EN" };
const storage = {
  get: (key) => nullOnError(() => localStorage.getItem(key)),
  set: (key, value) => nullOnError(() => localStorage.setItem(key, value)),
};
let strings = {};
let hasMore = false; // the strings of the parts that the first load does without

function nullOnError(work) {
  try {
    return work();
  } catch {
    return null; // a browser may forbid storage: a choice then lasts until the page is closed
  }
}

/** The stored language, or the first one that both the browser and the page have. */
export function language() {
  const stored = storage.get("language");
  if (stored in LANGUAGES) return stored;
  return navigator.languages.map((tag) => tag.slice(0, 2)).find((tag) => tag in LANGUAGES) ?? "en";
}

/** Loads the strings of a language, and fills the texts of the HTML document. */
export async function loadLanguage(tag = language()) {
  const files = [`/web/${tag}.json`, ...(hasMore ? [`/web/${tag}-more.json`] : [])];
  strings = Object.assign({}, ...(await Promise.all(files.map(stringsOf))));
  document.documentElement.lang = tag;
  for (const node of document.querySelectorAll("[data-text]")) node.textContent = t(node.dataset.text);
  for (const node of document.querySelectorAll("[data-label]")) node.setAttribute("aria-label", t(node.dataset.label));
}

/** Loads the strings of all parts of the page, which stay loaded in every language. */
export async function loadMore() {
  if (hasMore) return;
  Object.assign(strings, await stringsOf(`/web/${document.documentElement.lang}-more.json`));
  hasMore = true;
}

async function stringsOf(path) {
  const response = await fetch(path);
  if (!response.ok) throw new TypeError(`${path}: ${response.status}`);
  return response.json();
}

/** The string called `key`; {name} becomes `values.name`. */
export const t = (key, values = {}) => completed(strings[key] ?? key, values);

const completed = (text, values) => text.replace(/\{(\w+)\}/g, (placeholder, name) => values[name] ?? placeholder);

/** The string called `key`, or `fallback` if this language has none. */
export const translated = (key, fallback) => strings[key] ?? fallback;

/** A text of a bundle, which has one for each of its languages, and one in English. */
export const ofLanguage = (texts) => texts[document.documentElement.lang] ?? texts.en;

/** Title, remedy and detail of an error; a null remedy is part of the detail, which is English. */
export function errorText({ message, problem }) {
  if (!problem) return { title: message, remedy: null, detail: null };
  const { code, title, detail } = problem;
  const translatedTitle = completed(translated(`problem.${code}`, title), problem);
  return { title: translatedTitle, remedy: translated(`problem.${code}.remedy`, null), detail };
}

const formatted = (value, options) => new Intl.NumberFormat(document.documentElement.lang, options).format(value);

/** A number with at most `digits` after the decimal point, its thousands separated. */
export const number = (value, digits = 2) => formatted(value, { maximumFractionDigits: digits });

/** A number rounded to three significant figures; `signed` adds its sign. */
export function rounded(value, signed = false) {
  const notation = value !== 0 && Math.abs(value) < 0.001 ? "scientific" : "standard";
  return formatted(value, { maximumSignificantDigits: 3, signDisplay: signed ? "exceptZero" : "auto", notation });
}

/** A share 0…1 in percent; never rounded to 0 % or 100 %, which would be certainties. */
export function percent(share) {
  const shown = (value) => formatted(value, { style: "percent", maximumFractionDigits: 1 });
  if (share > 0 && share < 0.001) return `<${shown(0.001)}`;
  if (share < 1 && share > 0.999) return `>${shown(0.999)}`;
  return shown(share);
}

/** Milliseconds; seconds from 1,000 on. */
export function duration(milliseconds) {
  if (!Number.isFinite(milliseconds)) return "–";
  return milliseconds < 1000 ? `${rounded(milliseconds)} ms` : `${rounded(milliseconds / 1000)} s`;
}

/** Connects the buttons for language and theme; `redraw` draws the page in the new language, which is loaded. */
export function connectControls(redraw) {
  const [languageButton, themeButton] = [byId("language"), byId("theme")];
  const failure = el("span", { role: "alert" });
  const label = () => {
    const names = Object.entries(LANGUAGES).map(([tag, name]) => el("span", { lang: tag, class: tag === language() && "on" }, name));
    fill(languageButton, names[0], " / ", names[1]);
    languageButton.setAttribute("aria-label", `${Object.values(LANGUAGES).join(" / ")}: ${t("language.switch")}`);
    themeButton.textContent = t(`theme.${theme()}`);
  };
  languageButton.addEventListener("click", async () => {
    const next = language() === "en" ? "zh" : "en";
    try {
      await loadLanguage(next);
    } catch {
      languageButton.after(fill(failure, t("problem.unreachable"))); // the page stays in the language that it has
      return;
    }
    failure.remove();
    storage.set("language", next);
    await redraw();
    label();
  });
  themeButton.addEventListener("click", () => {
    setNextTheme();
    label();
  });
  label();
}

const theme = () => document.documentElement.dataset.theme ?? "system";

function setNextTheme() {
  const next = { system: "light", light: "dark", dark: "system" }[theme()];
  if (next === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = next;
  storage.set("theme", next);
}
