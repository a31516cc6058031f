// The dialog that asks for a key; loaded when the service wants one.

import { button, el, labelled } from "/web/dom.js";
import { t } from "/web/text.js";

/** The text that the visitor gave, or null; `again` if the key before was unknown. */
export function ask(again) {
  return new Promise((resolve) => {
    const input = el("input", { type: "password", autocomplete: "off", required: true });
    const form = el("form", { method: "dialog" }, labelled(t("key.label"), input));
    const send = el("button", { type: "submit", class: "main" }, t("key.send"));
    form.append(el("div", { class: "row" }, send, button(t("key.cancel"), () => dialog.close())));
    const dialog = el("dialog", { class: "sheet", "aria-labelledby": "key-title" });
    const unknown = again ? [el("p", { class: "notice bad", role: "alert" }, t("key.unknown"))] : [];
    dialog.append(el("h2", { id: "key-title" }, t("key.title")), el("p", {}, t("key.text")), ...unknown, form);
    let given = null;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      given = input.value;
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
