// The visitor's key, where the service wants one. It lasts as long as the browser's tab.

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
  asking ??= renew().finally(() => {
    asking = null;
  });
  return asking;
}

async function renew() {
  const { ask } = await import("/web/ask.js");
  const given = await ask(hasKey());
  if (given === null) return false;
  current = given.replace(/[^!-~]/g, ""); // other characters cannot be part of a header
  nullOnError(() => sessionStorage.setItem(NAME, current));
  return true;
}
