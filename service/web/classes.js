// The field for a class: a list to choose from, or with many classes a combobox to search in.
//
// The combobox is the editable one with a list of the ARIA Authoring Practices. Its list holds some
// of the classes, however many the model has.

import { button, el, fill, labelled, select } from "/web/dom.js";
import { nameOf, state } from "/web/state.js";
import { number, percent, t } from "/web/text.js";

const FEW = 50; // classes that a plain list is good for
const LISTED = 50; // options of a combobox
let fieldCount = 0; // for the ids of lists
let searched = { manifest: null, texts: [] };

/**
 * A field of a class: `node` to show and `set(value)` to change; `onchange` gets the new value.
 *
 * A value is "" or the index of a class as text; `none` are the words for "". The most probable
 * classes, `top`, come first.
 */
export function classField(text, id, { none, top, value, onchange }) {
  const shares = new Map(top.map(({ index, probability }) => [index, probability]));
  const choice = { none, shares, value, onchange };
  return state.manifest.labels.length > FEW ? new ClassSearch(text, id, choice) : listField(text, id, choice);
}

function listField(text, id, { none, shares, value, onchange }) {
  const pairs = ordered(state.manifest.labels.keys(), shares).map((index) => [String(index), optionText(index, shares)]);
  const list = select([["", none], ...pairs], value, onchange, { id });
  return { node: labelled(text, list), set: (next) => (list.value = next) };
}

/** Class indices, those with shares first, the most probable before all. */
function ordered(indices, shares) {
  const given = [...indices];
  const probable = given.filter((index) => shares.has(index)).sort((a, b) => shares.get(b) - shares.get(a));
  return [...probable, ...given.filter((index) => !shares.has(index))];
}

const optionText = (index, shares) => (shares.has(index) ? `${nameOf(index)} (${percent(shares.get(index))})` : nameOf(index));

/** A text without case and accents. */
const folded = (text) => text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase().trim();

/** The labels as they are searched, made once. */
function labelTexts() {
  const { manifest } = state;
  if (searched.manifest !== manifest) searched = { manifest, texts: manifest.labels.map(folded) };
  return searched.texts;
}

/**
 * The indices of the classes whose labels hold every word of `query`, best first: the class of that
 * index, labels that are the query, that begin with it, with words that do, and all others.
 */
export function search(query, shares = new Map()) {
  const words = folded(query).split(/\s+/);
  const whole = words.join(" ");
  const rank = (text) => (text === whole ? 0 : text.startsWith(whole) ? 1 : ` ${text}`.includes(` ${whole}`) ? 2 : 3);
  const ranks = [[], [], [], []];
  labelTexts().forEach((text, index) => {
    if (words.every((word) => text.includes(word))) ranks[rank(text)].push(index);
  });
  const found = ranks.flatMap((indices) => ordered(indices, shares));
  const index = /^\d+$/.test(whole) && whole in state.manifest.labels ? Number(whole) : null;
  return index === null ? found : [index, ...found.filter((other) => other !== index)];
}

class ClassSearch {
  constructor(text, id, choice) {
    Object.assign(this, choice, { options: [], active: -1 });
    const listId = `classes-${++fieldCount}`;
    this.input = el("input", {
      id,
      type: "text",
      role: "combobox",
      autocomplete: "off",
      spellcheck: "false",
      "aria-autocomplete": "list",
      "aria-expanded": "false",
      "aria-controls": listId,
      oninput: () => this.#open(this.input.value, 0),
      onkeydown: (event) => this.#onKey(event),
      onclick: () => this.#open(""),
      onfocus: () => this.input.select(),
      onblur: () => this.#leave(),
    });
    this.list = el("ul", { id: listId, role: "listbox", "aria-label": text });
    this.rest = el("p", { class: "quiet" });
    this.popup = el("div", { class: "popup", hidden: true, onpointerdown: (event) => event.preventDefault() }, this.list, this.rest);
    this.status = el("p", { class: "visually-hidden", role: "status" });
    const control = el("div", { class: "search" }, this.input, this.#arrow(), this.popup, this.status);
    this.node = el("div", { class: "field" }, el("label", { for: id }, text), control);
    this.set(this.value);
  }

  /** Shows a value, without a call of `onchange`. */
  set(value) {
    this.value = value;
    this.input.value = value === "" ? this.none : nameOf(Number(value));
  }

  #arrow() {
    const toggle = () => {
      this.input.focus();
      if (this.popup.hidden) this.#open("");
      else this.#close();
    };
    return button("▾", toggle, { class: "plain", tabindex: -1, "aria-hidden": "true", onpointerdown: (event) => event.preventDefault() });
  }

  /** Lists the classes that match `query`; of no query, the probable ones and the first. */
  #open(query, active = -1) {
    const found = query.trim() === "" ? null : search(query, this.shares);
    const count = found?.length ?? state.manifest.labels.length;
    const indices = found ?? ["", ...this.#first()];
    this.options = indices.slice(0, LISTED);
    fill(this.list, this.options.map((index, at) => this.#option(index, at)));
    const more = Math.max(0, count - this.options.filter((index) => index !== "").length);
    this.rest.textContent = count === 0 ? t("classes.none") : more > 0 ? t("classes.more", { more: number(more) }) : "";
    this.status.textContent = t("classes.found", { count: number(count) });
    this.list.hidden = this.options.length === 0;
    this.popup.hidden = false;
    this.input.setAttribute("aria-expanded", String(this.options.length > 0));
    this.#activate(Math.min(active, this.options.length - 1));
  }

  #first() {
    const indices = new Set([...ordered(this.shares.keys(), this.shares), ...state.manifest.labels.slice(0, LISTED).keys()]);
    return [...indices];
  }

  #option(index, at) {
    const text = index === "" ? this.none : optionText(index, this.shares);
    const attributes = { id: `${this.list.id}-${at}`, role: "option", "aria-selected": String(String(index) === this.value) };
    return el("li", { ...attributes, onclick: () => this.#choose(String(index)) }, text);
  }

  #activate(at) {
    this.active = at;
    [...this.list.children].forEach((option, index) => option.classList.toggle("active", index === at));
    const option = this.list.children[at];
    if (option) {
      this.input.setAttribute("aria-activedescendant", option.id);
      option.scrollIntoView({ block: "nearest" });
    } else this.input.removeAttribute("aria-activedescendant");
  }

  #close() {
    this.popup.hidden = true;
    this.input.setAttribute("aria-expanded", "false");
    this.#activate(-1);
    this.status.textContent = "";
  }

  #onKey(event) {
    const closed = this.popup.hidden;
    const count = this.options.length;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      const step = event.key === "ArrowDown" ? 1 : -1;
      if (closed) this.#open("", step > 0 ? 0 : LISTED);
      else if (count > 0) this.#activate((Math.max(this.active, step > 0 ? -1 : 0) + step + count) % count);
    } else if (event.key === "Enter" && !closed) {
      if (this.active >= 0) this.#choose(String(this.options[this.active]));
      else this.#leave();
    } else if (event.key === "Escape" && !closed) {
      this.set(this.value);
      this.#close();
    } else return;
    event.preventDefault();
  }

  #choose(value) {
    const changed = value !== this.value;
    this.set(value);
    this.#close();
    if (changed) this.onchange(value);
  }

  /** Takes a text that is a class or empty; any other is replaced by the class chosen before. */
  #leave() {
    const text = this.input.value;
    if (text.trim() === "") this.#choose("");
    else if (this.popup.hidden || text === this.none || (this.value !== "" && text === nameOf(Number(this.value)))) {
      this.set(this.value);
      this.#close();
    } else this.#choose(this.#exactly(text) ?? this.value);
  }

  /** The value of the only class that is called `text`, or has this index; null if there is none. */
  #exactly(text) {
    const [first, second] = search(text, this.shares);
    const isCalled = (index) => index !== undefined && (folded(nameOf(index)) === folded(text) || String(index) === text.trim());
    return isCalled(first) && !isCalled(second) ? String(first) : null;
  }
}
