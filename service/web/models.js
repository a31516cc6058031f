// The models of a service that has several: the picker, and the change to another one.

import { getJson, loaded } from "/web/api.js";
import { byId, debounced, el, fill, select } from "/web/dom.js";
import { asked, state } from "/web/state.js";
import { loadMore, t } from "/web/text.js";

const PICKER = "model-picker";
const QUICK = 300; // milliseconds: a model in memory has answered by then
const PAUSE = 250; // milliseconds without a key: arrows pass by other models
let loading = null; // the AbortController of a change that is under way

// A tab is opened after the change; any other address is another wish.
addEventListener("popstate", () => (history.state !== null || location.hash.includes("?")) && loading?.abort());

/** Shows the picker in the place of the model's name; `go` brings the page to its address. */
export function showPicker(go) {
  const pick = (name) => {
    loading?.abort();
    history.pushState(null, "", `${location.hash.split("?")[0] || "#"}?model=${encodeURIComponent(name)}`);
    go();
  };
  const pairs = state.models.map((name) => [name, name]);
  const label = el("label", { for: PICKER, "data-text": "tab.model" }, t("tab.model"));
  fill(byId("model-name"), label, " ", select(pairs, state.manifest.name, debounced(pick, PAUSE), { id: PICKER, autocomplete: "off" }));
}

/** Changes to a model; the first request for it lasts until it is loaded. */
export async function use(name) {
  await loaded(loadMore());
  const base = name === state.models[0] ? "" : `/models/${encodeURIComponent(name)}`;
  const { signal } = (loading = new AbortController());
  const notice = () => fill(byId("start-error"), el("p", { class: "notice" }, t("models.loading", { name })));
  const timer = setTimeout(notice, QUICK);
  showChoice(name);
  try {
    const [manifest, { methods }] = await Promise.all(["/model", "/methods"].map((path) => getJson(base + path, signal)));
    Object.assign(state, { base, manifest, methods, question: asked() });
  } finally {
    clearTimeout(timer);
    loading = null;
    showChoice(state.manifest.name);
  }
}

/** Shows `name` in the picker, which a browser may have failed to load. */
function showChoice(name) {
  const picker = byId(PICKER);
  if (picker) picker.value = name;
}
