// The card as a page of its own: its words, theme and language.

import { settings, speak, language } from "/web/text.js";

await speak(language());
settings(() => speak(language()));
