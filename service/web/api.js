// Requests to the service, by the routes that every client uses.

import { askForKey, hasKey, withKey } from "/web/key.js";
import { ofModel } from "/web/state.js";
import { t } from "/web/text.js";

const SUPPORTED = ["image/jpeg", "image/png", "image/webp"];
const IMAGES_PER_REQUEST = 64;
const BYTES_PER_REQUEST = 8 * 2 ** 20; // less than the service's limit, which includes the form
/** What a proxy or a server in front of the service means, which gives no reason. */
const CODES = { 401: "unauthorized", 403: "forbidden", 413: "body_too_large", 429: "too_many_requests", 502: "unavailable", 503: "unavailable", 504: "deadline_exceeded" };
const PASSING = ["unreachable", "not_loaded", "unauthorized", "unknown", "slow_request", "too_many_requests", "unavailable", "deadline_exceeded", "internal_error"];

/** An error with the problem document of the service (RFC 9457), or one that the page made. */
export class ProblemError extends Error {
  constructor(problem) {
    super(problem.detail ?? t(`problem.${problem.code}`, problem));
    this.problem = problem;
  }
}

const unreachable = () => new ProblemError({ code: "unreachable" });

/** True of an error that another attempt may not meet. */
export const mayPass = ({ problem }) => !problem || PASSING.includes(problem.code);

/** A module of the page that is being imported; a browser tries each only once. */
export const loaded = (module) =>
  module.catch(() => {
    throw new ProblemError({ code: "not_loaded" });
  });

async function request(path, options = {}) {
  let response = await send(path, options);
  while (response.status === 401 && (await askForKey())) response = await send(path, options);
  if (!response.ok) throw new ProblemError(await problemOf(response));
  return response;
}

/** Any answer of the service, with the visitor's key. */
export async function send(path, options) {
  try {
    return await fetch(path, withKey(options));
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw unreachable();
  }
}

async function problemOf(response) {
  const { status } = response;
  const problem = await response.json().catch(() => null);
  return typeof problem?.code === "string" ? problem : { code: CODES[status] ?? "unknown", status };
}

/** The answer to a request as "json", "text" or "blob"; one that is cut off is none. */
async function read(kind, path, options) {
  const response = await request(path, options);
  return response[kind]().catch((error) => {
    throw error.name === "AbortError" ? error : unreachable();
  });
}

/** A JSON document of the service. */
export const getJson = (path, signal) => read("json", path, { signal });

/** A text of the service. */
export const getText = (path) => read("text", path);

/** A file of the service. */
export const getBlob = (path) => read("blob", path);

/** Shows an image of the service in `image`; the browser itself would send no key. */
export async function showImage(image, path) {
  if (!hasKey()) {
    image.src = path;
    return image;
  }
  image.removeAttribute("src");
  try {
    image.src = URL.createObjectURL(await getBlob(path));
    image.addEventListener("load", () => URL.revokeObjectURL(image.src), { once: true });
  } catch {
    // Its text stays.
  }
  return image;
}

/** Parameters as the query of a request; empty ones are left out. */
export function query(parameters) {
  const given = Object.entries(parameters).filter(([, value]) => value !== null && value !== undefined && value !== "");
  return new URLSearchParams(given.map(([name, value]) => [name, String(value)])).toString();
}

/** The content type of `blob`; the service looks at the bytes of files that it does not support by name. */
export const contentType = (blob) => (SUPPORTED.includes(blob.type) ? blob.type : "application/octet-stream");

/** The explanation of one image as JSON, as the overlay (image/png) or the map (application/x-npy). */
export function explain(blob, parameters, accept = "application/json", signal = undefined) {
  const headers = { "Content-Type": contentType(blob), Accept: accept };
  const kind = accept === "application/json" ? "json" : "blob";
  return read(kind, ofModel(`/explain?${query(parameters)}`), { method: "POST", body: blob, headers, signal });
}

/** The prediction of one image. */
export function predict(blob, parameters, signal = undefined, path = ofModel("/predict")) {
  const headers = { "Content-Type": contentType(blob) };
  return read("json", `${path}?${query(parameters)}`, { method: "POST", body: blob, headers, signal });
}

/** The predictions of all images in their order; {error: problem} in the place of a failed one. */
export async function predictAll(blobs, parameters) {
  const path = ofModel("/predict"); // another model may be chosen before the last answer
  const answers = await Promise.all(grouped(blobs).map((group) => predictGroup(group, parameters, path)));
  return answers.flat();
}

async function predictGroup(blobs, parameters, path) {
  const predictOne = (blob) => predict(blob, parameters, undefined, path).catch((error) => ({ error: error.problem ?? { title: error.message } }));
  if (blobs.length === 1) return [await predictOne(blobs[0])];
  const form = new FormData();
  for (const [name, value] of Object.entries(parameters)) form.append(name, value);
  for (const blob of blobs) form.append("image", blob);
  try {
    return (await read("json", path, { method: "POST", body: form })).results;
  } catch (error) {
    if (mayPass(error)) return blobs.map(() => ({ error: error.problem ?? { title: error.message } }));
    return Promise.all(blobs.map(predictOne)); // each image then has its own error
  }
}

function grouped(blobs) {
  const groups = [];
  let bytes = Infinity;
  for (const blob of blobs) {
    if (bytes + blob.size > BYTES_PER_REQUEST || groups.at(-1).length === IMAGES_PER_REQUEST) {
      groups.push([]);
      bytes = 0;
    }
    groups.at(-1).push(blob);
    bytes += blob.size;
  }
  return groups;
}
