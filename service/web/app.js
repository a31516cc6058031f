// The start: words, theme, and one tab at a time; what a tab needs is loaded when it is opened.

import { json } from "/web/api.js";
import { byId } from "/web/dom.js";
import { state } from "/web/state.js";
import { language, settings, speak, t } from "/web/text.js";

const TABS = {
  try: () => import("/web/try.js"),
  why: () => import("/web/why.js"),
  watch: () => import("/web/watch.js"),
  model: () => import("/web/model.js"),
};
const drawn = new Set();
let open = null;

async function start() {
  await speak(language());
  settings(again);
  keys();
  addEventListener("hashchange", show);
  try {
    [state.manifest, state.methods] = await Promise.all([json("/model"), json("/methods").then((found) => found.methods)]);
    byId("model-name").textContent = state.manifest.name;
  } catch (error) {
    tell(error.message);
    return;
  }
  await show();
}

/** The page in another language: every tab is drawn anew when it is looked at. */
async function again() {
  await speak(language());
  drawn.clear();
  await show();
}

async function show() {
  const name = location.hash.slice(1);
  const next = name in TABS ? name : (open?.name ?? "try"); // the link that skips to the main part leads to no tab
  for (const tab of Object.keys(TABS)) mark(tab, tab === next);
  document.title = `Candor: ${t(`tab.${next}`)}`;
  if (open !== null && open.name !== next) {
    open.module.leave?.();
    scrollTo(0, 0);
  }
  const module = await TABS[next]();
  open = { name: next, module };
  if (!drawn.has(next)) module.draw(byId(next));
  drawn.add(next);
  module.enter?.();
}

function mark(tab, selected) {
  const link = byId(`tab-${tab}`);
  link.setAttribute("aria-selected", String(selected));
  link.tabIndex = selected ? 0 : -1;
  byId(tab).hidden = !selected;
}

/** Tabs by the keyboard, as the ARIA Authoring Practices have it: arrows go round, Home and End to the ends. */
function keys() {
  const names = Object.keys(TABS);
  document.querySelector("[role=tablist]").addEventListener("keydown", (event) => {
    const at = names.indexOf(event.target.getAttribute("aria-controls"));
    const places = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: names.length - 1, " ": at };
    if (at < 0 || !(event.key in places)) return;
    event.preventDefault();
    const next = names.at(places[event.key] % names.length);
    location.hash = next;
    byId(`tab-${next}`).focus();
  });
}

function tell(message) {
  byId("trouble").textContent = message;
  byId("trouble").hidden = false;
}

start();
