// The documentation of the API, from /openapi.json; the visitor can send every example.

import { getJson, send } from "/web/api.js";
import { button, byId, el, fill, labelled, select } from "/web/dom.js";
import { code, errorNotice, paragraph } from "/web/parts.js";
import { table } from "/web/tables.js";
import { connectControls, duration, loadLanguage, loadMore, t } from "/web/text.js";

const MAX_TEXT = 120; // characters of one text in an answer
const MAX_ANSWER = 20_000; // characters
const GROUPS = [["native", /^\/(?!v[12])/], ["v2", /^\/v2/], ["v1", /^\/v1/]];
let api = null;

async function start() {
  await loadLanguage();
  connectControls(draw);
  try {
    await loadMore();
    api = await getJson("/openapi.json");
    draw();
  } catch (error) {
    fill(byId("main"), errorNotice(error, null, () => location.reload()));
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
  const operations = paths.flatMap(([path, methods]) => Object.entries(methods).map(([method, operation]) => ({ path, method, operation })));
  return el("section", {}, el("h2", {}, t(`docs.${name}`)), operations.map(operationDetails));
}

function operationDetails({ method, path, operation }) {
  const parts = el("div", { class: "operation" });
  // The parts are built when they are first opened: there are hundreds.
  const ontoggle = (event) => event.target.open && parts.childElementCount === 0 && fill(parts, operationParts(method.toUpperCase(), path, operation));
  const summary = [el("b", { class: "verb" }, method.toUpperCase()), " ", el("code", {}, path), " ", el("span", { class: "quiet" }, operation.summary)];
  return el("details", { class: "sheet", ontoggle }, el("summary", {}, summary), parts);
}

function operationParts(method, path, operation) {
  const trial = new Trial(method, withPathValues(path, operation.parameters ?? []), operation);
  const description = operation.description ? paragraph(operation.description.replaceAll("`", "")) : null;
  return [description, parameters(operation), requestTypes(operation), answers(operation), trial.node];
}

function parameters({ parameters: entries = [] }) {
  if (entries.length === 0) return null;
  const row = ({ name, description, schema, in: place }) => [`${name} (${place})`, description ?? "", values(schema)];
  return titledTable("parameters", ["name", "meaning", "values"], entries.map(row));
}

function requestTypes({ requestBody }) {
  if (!requestBody) return null;
  const types = Object.keys(requestBody.content).flatMap((type) => [" ", el("code", {}, type)]);
  return paragraph([t("docs.takes"), ...types]);
}

function answers({ responses }) {
  const row = ([status, { description, content = {} }]) => [status, description, Object.keys(content).join(", ")];
  return titledTable("answers", ["status", "meaning", "kinds"], Object.entries(responses).map(row));
}

function titledTable(name, headers, rows) {
  const title = t(`docs.${name}`);
  return el("div", {}, el("h3", {}, title), table(title, headers.map((key) => t(`docs.${key}`)), rows));
}

/** A path with values for its parameters; the document lists the only possible ones. */
function withPathValues(path, parameters) {
  const inPath = parameters.filter((parameter) => parameter.in === "path");
  return inPath.reduce((filled, { name, schema }) => filled.replace(`{${name}}`, schema.enum?.[0] ?? 0), path);
}

function values({ type, enum: choices, minimum, maximum, default: initial, examples }) {
  const limits = minimum === undefined ? "" : ` ${minimum} … ${maximum ?? ""}`;
  const such = examples ? `, ${t("docs.such")} ${examples.join(", ")}` : "";
  const text = choices ? choices.join(" | ") : `${type ?? ""}${limits}${such}`;
  return initial === undefined ? text : `${text}; ${t("docs.default", { value: initial })}`;
}

/** A request to change and send, and its shell command. */
class Trial {
  constructor(method, path, operation) {
    this.method = method;
    this.wantsKey = "security" in operation;
    this.examples = examplesOf(operation);
    this.address = el("input", { type: "text", value: path, spellcheck: "false", oninput: () => this.#showCommand() });
    this.body = el("textarea", { rows: 6, spellcheck: "false", oninput: () => this.#showCommand() });
    this.command = code("");
    this.answer = el("div", { "aria-live": "polite" });
    const names = Object.keys(this.examples);
    if (names.length > 0) this.body.value = pretty(this.examples[names[0]]);
    this.node = el("div", { class: "trial" }, this.#form(names), this.answer, el("h3", {}, t("panel.curl")), this.command);
    this.#showCommand();
  }

  #form(names) {
    const send = button(t("docs.send"), () => this.#send(), { class: "main" });
    return [el("h3", {}, t("docs.try")), labelled(t("docs.address"), this.address), this.#bodyField(names), send];
  }

  #bodyField(names) {
    if (names.length === 0) return null;
    const onchange = (name) => {
      this.body.value = pretty(this.examples[name]);
      this.#showCommand();
    };
    const pairs = names.map((name) => [name, name]);
    const choice = names.length > 1 ? labelled(t("docs.example"), select(pairs, names[0], onchange)) : null;
    return el("div", {}, choice, labelled(t("docs.body"), this.body));
  }

  #showCommand() {
    const body = compact(this.body.value).replaceAll("'", "'\\''");
    const key = this.wantsKey ? ['-H "Authorization: Bearer $KEY"'] : [];
    const parts = [`curl -s '${location.origin}${this.address.value}'`, ...key, ...(body ? ["-H 'Content-Type: application/json'", `-d '${body}'`] : [])];
    this.command.textContent = parts.join(" \\\n  ");
  }

  async #send() {
    const body = this.body.value ? { body: this.body.value, headers: { "Content-Type": "application/json" } } : {};
    const started = performance.now();
    try {
      const response = await send(this.address.value, { method: this.method, ...body });
      const type = response.headers.get("content-type") ?? "";
      const text = await (type.includes("json") ? response.json().then(shortened) : response.text());
      const status = `${response.status} ${response.statusText}, ${type}, ${duration(performance.now() - started)}`;
      fill(this.answer, paragraph(status, response.ok ? "status" : "status bad"), code(text.slice(0, MAX_ANSWER)));
    } catch (error) {
      fill(this.answer, errorNotice(error));
    }
  }
}

function examplesOf({ requestBody }) {
  const json = requestBody?.content["application/json"] ?? {};
  const named = Object.entries(json.examples ?? {}).map(([name, { value }]) => [name, value]);
  return Object.fromEntries("example" in json ? [["example", json.example], ...named] : named);
}

const pretty = (value) => JSON.stringify(value, null, 2);

/** An answer as JSON with long texts cut: nobody reads a map in base64. */
function shortened(value) {
  const cut = (_, text) => (typeof text === "string" && text.length > MAX_TEXT ? `${text.slice(0, MAX_TEXT)}… (${text.length})` : text);
  return JSON.stringify(value, cut, 2);
}

function compact(text) {
  try {
    return JSON.stringify(JSON.parse(text));
  } catch {
    return text; // the visitor may send anything
  }
}

function schemas() {
  const details = ([name, schema]) => {
    const summary = el("summary", {}, el("code", {}, name), " ", el("span", { class: "quiet" }, schema.description ?? ""));
    return el("details", { class: "sheet" }, summary, code(pretty(schema)));
  };
  return el("section", {}, el("h2", {}, t("docs.schemas")), Object.entries(api.components.schemas).map(details));
}

start();
