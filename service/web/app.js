// The start of the page, and its tabs; the module of a tab is loaded when the tab is first opened.

import { getJson, loaded } from "/web/api.js";
import { byId, el, fill } from "/web/dom.js";
import { onImages } from "/web/images.js";
import { errorNotice } from "/web/parts.js";
import { PAGE, state } from "/web/state.js";
import { connectControls, loadLanguage, loadMore, t } from "/web/text.js";

const TABS = {
  try: () => import("/web/try.js"),
  why: () => import("/web/why.js"),
  watch: () => import("/web/watch.js"),
  model: () => import("/web/model.js"),
};
const drawnTabs = new Set();
let openTab = null; // {name, module}
let way = Promise.resolve(); // to the address
let goings = 0; // that are not over

async function start() {
  try {
    await loadLanguage();
  } catch {
    fill(byId("start-error"), "The service cannot be reached: load the page again."); // in no other language yet
    return;
  }
  connectControls(redraw);
  connectKeys();
  try {
    const documents = [getJson("/model"), getJson("/methods"), getJson("/models").catch(() => ({ models: [] }))];
    const [manifest, { methods }, { models }] = await Promise.all(documents);
    Object.assign(state, { manifest, methods, models: models.map(({ name }) => name) });
    byId("model-name").textContent = manifest.name;
  } catch (error) {
    fill(byId("start-error"), errorNotice(error, null, () => location.reload()));
    return;
  }
  addEventListener("popstate", goThere);
  onImages(remember);
  if (state.models.length > 1) await import("/web/models.js").then(({ showPicker }) => showPicker(goThere), () => {}); // or only the picker is missing
  await goThere();
}

/** The module of the address; a visitor who has asked for nothing yet needs none. */
const address = () => loaded(import("/web/address.js"));

/** Writes what is shown into the address, unless it is on the way to it; without the module only that is missing. */
const remember = () => address().then((module) => goings === 0 && module.remember(tabOfAddress()), () => {});

/** Brings the page to its address, one after the other: a visitor may go back twice at once. One that failed stays. */
function goThere() {
  goings += 1;
  way = way.then(arrive).finally(() => (goings -= 1)).then((there) => there && (state.images.length > 0 || state.base || location.hash.includes("?")) && remember());
  return way;
}

/** True once the page is there. */
async function arrive() {
  const place = byId("start-error");
  const { manifest } = state;
  // Images of the visitor's own are in the history alone.
  const isPlain = state.images.length === 0 && !state.base && !location.hash.includes("?") && !(history.state?.set > 0);
  let notice = null;
  let there = true;
  try {
    const strange = isPlain ? [] : await (await address()).follow();
    if (strange.length > 0) await loadMore();
    notice = strange.length > 0 && el("p", { class: "notice" }, t("address.strange", { names: strange.join(", ") }));
  } catch (error) {
    there = false;
    notice = error.name !== "AbortError" && errorNotice(error, null, goThere);
  }
  if (state.manifest !== manifest) drawnTabs.clear();
  fill(place, notice);
  await showTab();
  if (isPlain && history.state?.page !== PAGE) history.replaceState({ page: PAGE, set: -1 }, "");
  return there;
}

/** The tab that the address names; the open one if it names none, as #main of the skip link. */
function tabOfAddress() {
  const name = location.hash.slice(1).split("?")[0];
  return Object.hasOwn(TABS, name) ? name : (openTab?.name ?? "try");
}

/** Draws the page in another language; hidden tabs are drawn when they are opened. */
async function redraw() {
  drawnTabs.clear();
  await showTab();
}

async function showTab() {
  const name = tabOfAddress();
  for (const tab of Object.keys(TABS)) markTab(tab, tab === name);
  document.title = `Candor: ${t(`tab.${name}`)}`;
  if (openTab !== null && openTab.name !== name) {
    openTab.module.leave?.();
    scrollTo(0, 0);
  }
  let module;
  try {
    [module] = await loaded(Promise.all([TABS[name](), name !== "try" && loadMore()]));
  } catch (error) {
    fill(byId(name), errorNotice(error, null, () => location.reload()));
    return;
  }
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
