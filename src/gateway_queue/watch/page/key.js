// The keys that were entered in this tab. They are kept only here, until the tab is closed.

import { byId, say } from "./dom.js";

const keys = { api: null, operator: null };

// The headers of a request to the server that needs one of the two keys.
export const authorization = (kind = "api") =>
  (keys[kind] === null ? {} : { Authorization: `Bearer ${keys[kind]}` });

export const hasOperatorKey = () => keys.operator !== null;

// Ask for the API key until there is one to try; there is nothing to see without it.
export async function askForKey() {
  say(byId("live"), "Locked");
  const why = keys.api === null
    ? "You need this server's API key to see its figures."
    : "This is not the key that the server expects.";
  while (!(await ask("api", "API key", why, "Watch"))) continue;
}

// Ask for the operator key. Resolves with false if the user cancels.
export function askForOperatorKey() {
  const why = keys.operator === null
    ? "You need the operator key to steer the queue."
    : "This is not the operator key that the server expects.";
  return ask("operator", "Operator key", why, "Continue");
}

function ask(kind, name, why, action) {
  const dialog = byId("key-dialog");
  say(byId("key-name"), name);
  say(byId("key-label"), name);
  say(byId("key-why"), why);
  say(byId("key-button"), action);
  byId("key-cancel").hidden = kind === "api";
  byId("key").value = "";
  dialog.showModal();
  byId("key-cancel").onclick = () => dialog.close();
  return new Promise((resolve) => {
    dialog.onclose = () => resolve(false);
    byId("key-form").onsubmit = (event) => {
      event.preventDefault();
      keys[kind] = byId("key").value;
      resolve(true);
      dialog.close();
    };
  });
}
