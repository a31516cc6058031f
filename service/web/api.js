// What the page asks of the service: the same routes as everyone else's.

import { t } from "/web/text.js";

const TAKEN = ["image/jpeg", "image/png", "image/webp"];
const MOST_PICTURES = 64; // in one request
const MOST_BYTES = 8 * 2 ** 20; // below the service's limit for a body

/** What the service refused, and why; the message is its own sentence. */
export class Refusal extends Error {
  constructor(problem) {
    super(problem.detail ?? problem.title);
    this.problem = problem;
  }
}

async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal({ code: "unreachable", detail: t("error.unreachable") });
  }
  if (!response.ok) throw new Refusal(await problemOf(response));
  return response;
}

async function problemOf(response) {
  const unknown = { code: "unknown", detail: t("error.status", { status: response.status }) };
  return response.json().catch(() => unknown);
}

/** A document of the service as JSON. */
export const json = async (path) => (await ask(path)).json();

/** A document of the service as text. */
export const text = async (path) => (await ask(path)).text();

/** What is asked, as the query of a request; what is empty is left out. */
export function query(question) {
  const given = Object.entries(question).filter(([, value]) => value !== null && value !== undefined && value !== "");
  return new URLSearchParams(given.map(([name, value]) => [name, String(value)])).toString();
}

/** The content type that `blob` is sent as: the service looks at the bytes where the browser names nothing that it takes. */
export const kindOf = (blob) => (TAKEN.includes(blob.type) ? blob.type : "application/octet-stream");

/** The explanation of one picture, as `accept` says: JSON, the overlay (image/png) or the map (application/x-npy). */
export async function explain(blob, question, accept = "application/json", signal = undefined) {
  const headers = { "Content-Type": kindOf(blob), Accept: accept };
  const response = await ask(`/explain?${query(question)}`, { method: "POST", body: blob, headers, signal });
  return accept === "application/json" ? response.json() : response.blob();
}

/** The prediction of one picture; `asked` are parameters of /predict. */
export async function predict(blob, asked, signal = undefined) {
  const headers = { "Content-Type": kindOf(blob) };
  return (await ask(`/predict?${query(asked)}`, { method: "POST", body: blob, headers, signal })).json();
}

/** For each picture its prediction or {error: problem}, in their order; as many go together as one request takes. */
export async function predictAll(blobs, asked) {
  const answers = await Promise.all(groups(blobs).map((group) => together(group, asked)));
  return answers.flat();
}

async function together(blobs, asked) {
  if (blobs.length === 1) return [await predict(blobs[0], asked).catch(failed)];
  const form = new FormData();
  for (const [name, value] of Object.entries(asked)) form.append(name, value);
  for (const blob of blobs) form.append("image", blob);
  try {
    return (await (await ask("/predict", { method: "POST", body: form })).json()).results;
  } catch {
    return Promise.all(blobs.map((blob) => predict(blob, asked).catch(failed))); // one at a time says whose fault it was
  }
}

const failed = (error) => ({ error: error.problem ?? { code: "unknown", detail: error.message } });

function groups(blobs) {
  const found = [];
  let bytes = Infinity;
  for (const blob of blobs) {
    if (bytes + blob.size > MOST_BYTES || found.at(-1).length === MOST_PICTURES) {
      found.push([]);
      bytes = 0;
    }
    found.at(-1).push(blob);
    bytes += blob.size;
  }
  return found;
}

/** The command that asks the same, to type into a shell. */
export function curl(blob, name, question) {
  const file = name.replaceAll("'", "'\\''");
  return [
    `curl -s --data-binary '@${file}' -H 'Content-Type: ${kindOf(blob)}'`,
    `  '${location.origin}/explain?${query(question)}'`,
  ].join(" \\\n");
}
