// The visitor's key, where the service wants one. It lasts as long as the browser's tab.

import { button, el, labelled } from "/web/dom.js";
import { t } from "/web/text.js";

const NAME = "candor.key";
let asking = null; // the promise of the open dialog: requests that need a key wait for one answer
let current = nullOnError(() => sessionStorage.getItem(NAME));

function nullOnError(work) {
  try {
    return work();
  } catch {
    return null; // a browser may forbid storage: the key then lasts until the page is closed
  }
}

/** True if the visitor has given a key. */
export const hasKey = () => current !== null;

/** The options of a request, with the key if there is one. */
export const withKey = (options) =>
  current === null ? options : { ...options, headers: { ...options.headers, Authorization: `Bearer ${current}` } };

/** Asks the visitor for a key; false if there is none. */
export function askForKey() {
  asking ??= ask().finally(() => {
    asking = null;
  });
  return asking;
}

function ask() {
  return new Promise((resolve) => {
    const input = el("input", { type: "password", autocomplete: "off", required: true });
    const form = el("form", { method: "dialog" }, labelled(t("key.label"), input));
    const send = el("button", { type: "submit", class: "main" }, t("key.send"));
    form.append(el("div", { class: "row" }, send, button(t("key.cancel"), () => dialog.close())));
    const dialog = el("dialog", { class: "sheet", "aria-labelledby": "key-title" });
    const unknown = hasKey() ? [el("p", { class: "notice bad", role: "alert" }, t("key.unknown"))] : [];
    dialog.append(el("h2", { id: "key-title" }, t("key.title")), el("p", {}, t("key.text")), ...unknown, form);
    let given = false;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      current = input.value.replace(/[^!-~]/g, ""); // other characters cannot be part of a header
      nullOnError(() => sessionStorage.setItem(NAME, current));
      given = true;
      dialog.close();
    });
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(given);
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}
