// The start of the page, and its tabs; the module of a tab is loaded when the tab is first opened.

import { getJson } from "/web/api.js";
import { byId, fill } from "/web/dom.js";
import { errorNotice } from "/web/parts.js";
import { state } from "/web/state.js";
import { connectControls, loadLanguage, t } from "/web/text.js";

const TABS = {
  try: () => import("/web/try.js"),
  why: () => import("/web/why.js"),
  watch: () => import("/web/watch.js"),
  model: () => import("/web/model.js"),
};
const drawnTabs = new Set();
let openTab = null; // {name, module}

async function start() {
  await loadLanguage();
  connectControls(redraw);
  connectKeys();
  addEventListener("hashchange", showTab);
  try {
    [state.manifest, state.methods] = await Promise.all([getJson("/model"), getJson("/methods").then(({ methods }) => methods)]);
    byId("model-name").textContent = state.manifest.name;
  } catch (error) {
    fill(byId("start-error"), errorNotice(error));
    return;
  }
  await showTab();
}

/** Draws the page in another language; hidden tabs are drawn when they are opened. */
async function redraw() {
  await loadLanguage();
  drawnTabs.clear();
  await showTab();
}

async function showTab() {
  const hash = location.hash.slice(1);
  const name = hash in TABS ? hash : (openTab?.name ?? "try"); // #main is the target of the skip link
  for (const tab of Object.keys(TABS)) markTab(tab, tab === name);
  document.title = `Candor: ${t(`tab.${name}`)}`;
  if (openTab !== null && openTab.name !== name) {
    openTab.module.leave?.();
    scrollTo(0, 0);
  }
  const module = await TABS[name]();
  openTab = { name, module };
  if (!drawnTabs.has(name)) module.draw(byId(name));
  drawnTabs.add(name);
  module.enter?.();
}

function markTab(tab, selected) {
  const link = byId(`tab-${tab}`);
  link.setAttribute("aria-selected", String(selected));
  link.tabIndex = selected ? 0 : -1;
  byId(tab).hidden = !selected;
}

/** Keys of the tabs (ARIA Authoring Practices): arrows go round, Home and End go to the ends. */
function connectKeys() {
  const names = Object.keys(TABS);
  document.querySelector("[role=tablist]").addEventListener("keydown", (event) => {
    const current = names.indexOf(event.target.getAttribute("aria-controls"));
    const targets = { ArrowRight: current + 1, ArrowLeft: current - 1, Home: 0, End: names.length - 1, " ": current };
    if (current < 0 || !(event.key in targets)) return;
    event.preventDefault();
    const name = names.at(targets[event.key] % names.length);
    location.hash = name;
    byId(`tab-${name}`).focus();
  });
}

start();
