// The API key, where the server wants one. It is kept here, so until the tab is closed, and
// nowhere else.

import { byId, say } from "./dom.js";

let key = null;

// The headers of a request to the server.
export const authorization = () => (key === null ? {} : { Authorization: `Bearer ${key}` });

// Ask for a key until there is one to try.
export function askForKey() {
  const dialog = byId("key-dialog");
  const why = key === null
    ? "This server shows its figures only to those who have its API key."
    : "This is not the key that the server expects.";
  say(byId("key-why"), why);
  say(byId("live"), "Locked");
  byId("key").value = "";
  dialog.showModal();
  dialog.onclose = () => dialog.showModal(); // there is nothing to be seen without a key
  return new Promise((resolve) => {
    byId("key-form").onsubmit = (event) => {
      event.preventDefault();
      key = byId("key").value;
      dialog.onclose = null;
      dialog.close();
      resolve();
    };
  });
}
