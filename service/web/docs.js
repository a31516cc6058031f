// The documentation of the API, from /openapi.json: what it describes can be sent from here.

import { json } from "/web/api.js";
import { button, byId, el, fill, labelled, select } from "/web/dom.js";
import { code, table, trouble, words } from "/web/parts.js";
import { duration, language, settings, speak, t } from "/web/text.js";

const LONG = 120; // characters of a text in an answer that are shown
const MOST = 20_000; // characters of an answer that are shown
const GROUPS = [["native", /^\/(?!v[12])/], ["v2", /^\/v2/], ["v1", /^\/v1/]];
let api = null;

async function start() {
  await speak(language());
  settings(async () => {
    await speak(language());
    draw();
  });
  try {
    api = await json("/openapi.json");
    draw();
  } catch (error) {
    fill(byId("main"), trouble(error.message));
  }
}

function draw() {
  document.title = `${api.info.title}: API`;
  fill(
    byId("main"),
    el("h1", {}, t("docs.title")),
    el("p", { class: "lead" }, api.info.description),
    el("p", { class: "quiet" }, t("docs.lead"), " ", el("a", { href: "/openapi.json" }, "/openapi.json")),
    GROUPS.map(([name, pattern]) => group(name, Object.entries(api.paths).filter(([path]) => pattern.test(path)))),
    schemas(),
  );
}

function group(name, paths) {
  const operations = paths.flatMap(([path, verbs]) => Object.entries(verbs).map(([verb, operation]) => ({ path, verb, operation })));
  return el("section", {}, el("h2", {}, t(`docs.${name}`)), operations.map(described));
}

function described({ verb, path, operation }) {
  const parts = el("div", { class: "operation" });
  const open = (event) => event.target.open && parts.childElementCount === 0 && fill(parts, body(verb.toUpperCase(), path, operation));
  const named = [el("b", { class: "verb" }, verb.toUpperCase()), " ", el("code", {}, path), " ", el("span", { class: "quiet" }, operation.summary)];
  return el("details", { class: "sheet", ontoggle: open }, el("summary", {}, named), parts);
}

function body(verb, path, operation) {
  const trial = new Trial(verb, filled(path, operation.parameters ?? []), operation);
  return [parameters(operation), taken(operation), answers(operation), trial.node];
}

function parameters({ parameters: given = [] }) {
  if (given.length === 0) return null;
  const row = ({ name, description, schema, in: place }) => [`${name} (${place})`, description ?? "", values(schema)];
  return titled("parameters", ["name", "meaning", "values"], given.map(row));
}

function taken({ requestBody }) {
  if (!requestBody) return null;
  const kinds = Object.keys(requestBody.content).flatMap((kind) => [" ", el("code", {}, kind)]);
  return words([t("docs.takes"), ...kinds]);
}

function answers({ responses }) {
  const row = ([status, { description, content = {} }]) => [status, description, Object.keys(content).join(", ")];
  return titled("answers", ["status", "meaning", "kinds"], Object.entries(responses).map(row));
}

function titled(name, heads, rows) {
  const title = t(`docs.${name}`);
  return el("div", {}, el("h3", {}, title), table(title, heads.map((key) => t(`docs.${key}`)), rows));
}

/** A path with the only values that its places can have. */
function filled(path, parameters) {
  const places = parameters.filter((parameter) => parameter.in === "path");
  return places.reduce((found, { name, schema }) => found.replace(`{${name}}`, schema.enum[0]), path);
}

function values({ type, enum: choices, minimum, maximum, default: usual, examples }) {
  const limits = minimum === undefined ? "" : ` ${minimum} … ${maximum}`;
  const such = examples ? `, ${t("docs.such")} ${examples.join(", ")}` : "";
  const what = choices ? choices.join(" | ") : `${type ?? ""}${limits}${such}`;
  return usual === undefined ? what : `${what}; ${usual} ${t("docs.usual")}`;
}

/** A request that can be changed, sent, and taken along as a command. */
class Trial {
  constructor(verb, path, operation) {
    this.verb = verb;
    this.examples = examplesOf(operation);
    this.address = el("input", { type: "text", value: path, spellcheck: "false", oninput: () => this.#command() });
    this.sent = el("textarea", { rows: 6, spellcheck: "false", oninput: () => this.#command() });
    this.command = code("");
    this.answer = el("div", { "aria-live": "polite" });
    const names = Object.keys(this.examples);
    if (names.length > 0) this.sent.value = pretty(this.examples[names[0]]);
    this.node = el("div", { class: "trial" }, this.#form(names), this.answer, el("h3", {}, t("panel.curl")), this.command);
    this.#command();
  }

  #form(names) {
    const send = button(t("docs.send"), () => this.#send(), { class: "main" });
    return [el("h3", {}, t("docs.try")), labelled(t("docs.address"), this.address), this.#body(names), send];
  }

  #body(names) {
    if (names.length === 0) return null;
    const change = (name) => {
      this.sent.value = pretty(this.examples[name]);
      this.#command();
    };
    const pairs = names.map((name) => [name, name]);
    const choice = names.length > 1 ? labelled(t("docs.example"), select(pairs, names[0], change)) : null;
    return el("div", {}, choice, labelled(t("docs.body"), this.sent));
  }

  #command() {
    const body = compact(this.sent.value).replaceAll("'", "'\\''");
    const parts = [`curl -s '${location.origin}${this.address.value}'`, ...(body ? ["-H 'Content-Type: application/json'", `-d '${body}'`] : [])];
    this.command.textContent = parts.join(" \\\n  ");
  }

  async #send() {
    const sent = this.sent.value ? { body: this.sent.value, headers: { "Content-Type": "application/json" } } : {};
    const started = performance.now();
    try {
      const response = await fetch(this.address.value, { method: this.verb, ...sent });
      const kind = response.headers.get("content-type") ?? "";
      const shown = await (kind.includes("json") ? response.json().then(brief) : response.text());
      const status = `${response.status} ${response.statusText}, ${kind}, ${duration(performance.now() - started)}`;
      fill(this.answer, words(status, response.ok ? "status" : "status bad"), code(shown.slice(0, MOST)));
    } catch {
      fill(this.answer, trouble(t("error.unreachable")));
    }
  }
}

function examplesOf({ requestBody }) {
  const taken = requestBody?.content["application/json"] ?? {};
  const several = Object.entries(taken.examples ?? {}).map(([name, { value }]) => [name, value]);
  return Object.fromEntries("example" in taken ? [["example", taken.example], ...several] : several);
}

const pretty = (value) => JSON.stringify(value, null, 2);

/** An answer as JSON, long texts cut: a map in base64 says nothing to a person. */
function brief(value) {
  const cut = (_, text) => (typeof text === "string" && text.length > LONG ? `${text.slice(0, LONG)}… (${text.length})` : text);
  return JSON.stringify(value, cut, 2);
}

function compact(text) {
  try {
    return JSON.stringify(JSON.parse(text));
  } catch {
    return text; // not JSON yet, or on purpose
  }
}

function schemas() {
  const one = ([name, schema]) => {
    const summary = el("summary", {}, el("code", {}, name), " ", el("span", { class: "quiet" }, schema.description ?? ""));
    return el("details", { class: "sheet" }, summary, code(pretty(schema)));
  };
  return el("section", {}, el("h2", {}, t("docs.schemas")), Object.entries(api.components.schemas).map(one));
}

start();
