// The dialog that says how a launch will go.

import { authorization } from "./key.js";
import { byId, say } from "./dom.js";
import { agree, clock, length, many, number } from "./words.js";

let url = null;
let asked = 0; // the number of the last question; answers to others come too late

// `pages` is where the bot's other pages are; `picture` has what is known when it is opened.
export function preparePlan(pages, picture) {
  url = new URL("plan", pages);
  byId("plan-open").addEventListener("click", () => {
    if (!byId("plan-shards").value) byId("plan-shards").value = picture.shards.length || 1;
    byId("plan-interval").value = picture.summary?.pace.interval ?? "";
    byId("plan-dialog").showModal();
    ask();
  });
  byId("plan-form").addEventListener("input", ask);
  byId("plan-form").addEventListener("submit", (event) => {
    event.preventDefault();
    ask();
  });
  byId("plan-close").addEventListener("click", () => byId("plan-dialog").close());
}

async function ask() {
  asked += 1;
  const question = asked;
  if (!byId("plan-form").checkValidity()) {
    say(byId("plan-answer"), "How many shards, and how many seconds from one to the next?");
    return;
  }
  const given = { shards: byId("plan-shards").value, interval: byId("plan-interval").value };
  let words;
  try {
    const query = new URLSearchParams(Object.entries(given).filter(([, value]) => value));
    const headers = authorization();
    const answer = await fetch(`${url}?${query}`, { headers, cache: "no-store" });
    const found = await answer.json();
    words = answer.ok ? inWords(found, Date.now()) : `The server says: ${found.detail}.`;
  } catch {
    words = "The server does not answer.";
  }
  if (question === asked) say(byId("plan-answer"), words);
}

// How the launch will go. The command says the same (cli/plan_report.py).
export function inWords(plan, now) {
  const { shards, buckets, takes, waiting, all_in_in: all, obstacle, missing, limits } = plan;
  const said = [`${many(shards, "shard")} in ${many(buckets, "bucket")} ${agree(shards, "take")} ${length(takes)}.`];
  if (waiting) said.push(`${number(waiting)} ${agree(waiting, "wait")} before them.`);
  if (all !== null) said.push(`If they ask now, all are in by ${clock(all, now)}, in ${length(all)}.`);
  const left = Math.max(0, limits.remaining - limits.reserve);
  if (missing) {
    const back = limits.source === "discord" ? "they are back" : "the first is back";
    said.push(`There are not enough session starts: ${number(missing)} ${missing === 1 ? "is" : "are"} missing; ` +
      `${back} at ${clock(limits.reset_in, now)}, in ${length(limits.reset_in)}.`);
  } else {
    said.push(`There are enough session starts, with ${number(left - shards - waiting)} to spare.`);
    if (all === null) {
      const why = obstacle === "paused" ? "an operator has paused it" : "nobody is let in now";
      said.push(`The time is unknown, because ${why}.`);
    }
  }
  return said.join(" ");
}
