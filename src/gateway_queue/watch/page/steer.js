// What an operator may do: pause, resume, slow down, and actions on one shard. The buttons are
// only shown if the server has an operator key.

import { byId, mark, say } from "./dom.js";
import { askForOperatorKey, authorization, hasOperatorKey } from "./key.js";

let operator = null; // the URL that actions are sent to
let isPaused = false;
let shown = { shard: null, details: null }; // the shard whose buttons are shown

export function prepareSteering(pages) {
  operator = new URL("operator/", pages);
  for (const name of ["pause", "resume"]) {
    byId(`${name}-button`).addEventListener("click", () => {
      if (isPaused) act("DELETE", "pause", null, byId("banner-problem"));
      else open("pause");
    });
  }
  byId("pace-button").addEventListener("click", () => open("pace"));
  byId("read-limits").addEventListener("click", async () => {
    const was = await act("POST", "limits/read", null, byId("read-limits-said"));
    if (was) say(byId("read-limits-said"), "Asking Discord.");
  });
  prepare("pause", () => ["PUT", "pause", { reason: byId("pause-reason").value, ...period("pause") }]);
  prepare("pace", () => ["PUT", "interval", { seconds: Number(byId("pace-seconds").value), ...period("pace") }]);
  prepare("drop", () => ["DELETE", `shards/${byId("drop-dialog").dataset.shard}/seat`, null]);
  byId("pace-back").addEventListener("click", async () => {
    if (await act("DELETE", "interval", null, byId("pace-problem"))) byId("pace-dialog").close();
  });
  byId("shard-first").addEventListener("click", () => {
    const { shard, details } = shown;
    actOnShard(details.first ? "DELETE" : "PUT", `shards/${shard}/first`);
  });
  byId("shard-drop").addEventListener("click", () => {
    byId("drop-dialog").dataset.shard = shown.shard;
    say(byId("drop-name"), `Drop shard ${shown.shard}?`);
    open("drop");
  });
  byId("shard-forgive").addEventListener("click", () => actOnShard("DELETE", `shards/${shown.shard}/crash-loop`));
}

export function showSteering({ operator: may, paused, pace, limits }) {
  isPaused = Boolean(paused);
  for (const name of ["pause-button", "pace-button"]) byId(name).hidden = !may;
  byId("resume-button").hidden = !(may && isPaused);
  byId("read-limits").hidden = !(may && limits.source === "discord");
  say(byId("pause-button"), isPaused ? "Resume" : "Pause");
  const { configured = pace.interval, interval } = pace;
  mark(byId("pace-seconds"), "min", configured);
  byId("pace-back").hidden = interval === configured;
  say(byId("pace-now"), `The configured interval is ${configured} s for each bucket.` +
    (interval === configured ? "" : ` It is ${interval} s now.`));
}

// The buttons for the shard whose details are shown.
export function showShardActions(shard, details, may) {
  if (shard !== shown.shard) say(byId("shard-said"), "");
  shown = { shard, details };
  const hasPlace = Boolean(may && details && details.state !== "granted");
  byId("shard-first").hidden = byId("shard-drop").hidden = !hasPlace;
  say(byId("shard-first"), details?.first ? "Move it back" : "Put it first");
  byId("shard-forgive").hidden = !(may && details?.level);
}

function open(name) {
  say(byId(`${name}-problem`), "");
  byId(`${name}-dialog`).showModal();
}

// Make a dialog send its input, and close when that is done.
function prepare(name, order) {
  const dialog = byId(`${name}-dialog`);
  byId(`${name}-form`).addEventListener("submit", async (event) => {
    event.preventDefault();
    if (await act(...order(), byId(`${name}-problem`))) dialog.close();
  });
  byId(`${name}-cancel`).addEventListener("click", () => dialog.close());
}

function period(name) {
  const seconds = Number(byId(`${name}-for`).value);
  return seconds ? { for: seconds } : {};
}

async function actOnShard(method, path) {
  if (await act(method, path, null, byId("shard-said"))) say(byId("shard-said"), "Done.");
  byId("shard").focus(); // the button may be gone
}

// Send an order, and say in `problem` why it was not carried out. Returns whether it was.
async function act(method, path, order, problem) {
  say(problem, "");
  try {
    for (;;) {
      if (!hasOperatorKey() && !(await askForOperatorKey())) return false;
      const answer = await fetch(new URL(path, operator), {
        method,
        headers: { ...authorization("operator"), ...(order && { "Content-Type": "application/json" }) },
        body: order && JSON.stringify(order),
        cache: "no-store",
      });
      if (answer.ok) return true;
      if (answer.status === 401) {
        if (!(await askForOperatorKey())) return false;
        continue;
      }
      say(problem, `Not done: ${(await answer.json()).detail}.`);
      return false;
    }
  } catch {
    say(problem, "Not done: the server does not answer.");
    return false;
  }
}
