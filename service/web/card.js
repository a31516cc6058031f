// The model card as a page: the card itself is HTML of the service.

import { connectControls, loadLanguage } from "/web/text.js";

await loadLanguage();
connectControls(loadLanguage);
