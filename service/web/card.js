// The model card as a page: the card itself is HTML of the service.

import { connectControls, loadLanguage } from "/web/text.js";

await loadLanguage();
connectControls(loadLanguage);
const [, model] = /^\/models\/([^/]+)/.exec(location.pathname) ?? [];
if (model) document.querySelector(".tabs a").hash = `model?model=${model}`;
