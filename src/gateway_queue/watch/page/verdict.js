// Sums up all the figures in words. Pure. The commands in a terminal say the same
// (cli/verdict.py): one table of cases, tests/verdicts.py, checks both.

import { agree, clock, length, many, number, printable } from "./words.js";

// `state` is ready, busy, paused or stopped. `banner` is there only when something stops
// everything.
export function verdict(summary, counts, now) {
  const { waiting, obstacle } = summary;
  if (summary.paused) return paused(summary, now);
  if (obstacle) return stopped(summary, now);
  if (!waiting) return nobodyWaits(counts);
  const slowed = counts.c;
  const shards = summary.beside ? "request" : "shard";
  if (summary.covered < waiting) return tooFewStarts(summary, shards, now);
  if (slowed && slowed >= waiting) {
    const last = summary.all_in_in;
    return {
      state: "busy",
      headline: "Everyone else is in",
      detail: `${many(slowed, "shard")} in a crash loop ${agree(slowed, "wait")}` +
        (last === null ? "." : `, the last until ${clock(last, now)}, for ${length(last)}.`),
      within: last,
      banner: null,
    };
  }
  const within = summary.others_in_in;
  const rest = waiting - slowed;
  const wait = `${many(rest, shards)} ${agree(rest, "wait")}`;
  const later = slowed ? `; ${number(slowed)} in a crash loop ${agree(slowed, "come")} later` : "";
  return {
    state: "busy",
    headline: within === null ? wait : `Everyone is in by ${clock(within, now)}`,
    detail: (within === null ? "How long it takes is unknown." : `In ${length(within)}. ${wait},`) +
      ` ${areIn(counts)}${later}.`,
    within,
    banner: null,
  };
}

function nobodyWaits(counts) {
  const total = totalOf(counts);
  const isIn = total > 0 && letIn(counts) === total;
  const open = [
    [counts["."], "not asked yet"],
    [counts.a, "away"],
    [counts.x, "refused by Discord (op 9)"],
  ].filter(([shards]) => shards);
  const detail = isIn
    ? `${many(total, "shard")} asked and ${total === 1 ? "was" : "were"} let in.`
    : `${areIn(counts)}; ${open.map(([shards, what]) => `${number(shards)} ${what}`).join(", ")}.`;
  return {
    state: "ready",
    headline: isIn ? "Everyone is in" : "Nobody waits",
    detail: total ? detail : "No shard has asked in the last 24 hours.",
    within: null,
    banner: null,
  };
}

function tooFewStarts(summary, shards, now) {
  const { waiting, covered, back_in: back } = summary;
  return {
    state: "busy",
    headline: `${number(covered)} of ${many(waiting, shards)} can get in`,
    detail: `Then the session starts are used up, and ${number(waiting - covered)} wait` +
      ` until ${clock(back, now)}, for ${length(back)}.`,
    within: null,
    banner: null,
  };
}

function paused(summary, now) {
  const { waiting, obstacle } = summary;
  const { reason, began_ago: ago, ends_in: rest, survives_restart: survives } = summary.paused;
  const wait = waiting ? `${many(waiting, summary.beside ? "request" : "shard")} ${agree(waiting, "wait")}` : "nobody waits";
  const until = rest === null ? "It lasts until somebody resumes" : `Until ${clock(rest, now)}, for ${length(rest)}`;
  const text = [`An operator paused the queue at ${clock(-ago, now)}${reason ? `: ${printable(reason)}` : ""}.`, `${until}.`];
  if (!survives) text.push("A restart of the server would end it.");
  if (obstacle && obstacle !== "paused") text.push(`Also: ${stops(summary, now).title}`);
  return {
    state: "paused",
    headline: `Paused, ${wait}`,
    detail: "Nobody is let in. Waiting shards keep their places.",
    within: null,
    banner: { title: "Granting is paused.", text: text.join(" ") },
  };
}

function stopped(summary, now) {
  const { waiting } = summary;
  const wait = waiting
    ? `${many(waiting, summary.beside ? "request" : "shard")} ${agree(waiting, "wait")}, nobody is let in`
    : "Nobody can be let in";
  const { detail, title, text } = stops(summary, now);
  return { state: "stopped", headline: wait, detail, within: null, banner: { title, text } };
}

// What stands in the way of all.
function stops(summary, now) {
  const { obstacle, limits, back_in: back } = summary;
  const { failure } = limits;
  const known = {
    limits_unknown: {
      detail: "Discord has not said how many session starts are left.",
      title: "Discord's limits are unknown.",
      text: failure
        ? `The last reading failed ${length(failure.age)} ago: ${printable(failure.error)}`
        : "They are being read; nothing is granted until then.",
    },
    reserve: {
      detail: "All session starts except the reserve are used.",
      title: "The reserve is reached.",
      text: `Nothing is granted until session starts come back at ${clock(back, now)}, in ` +
        `${length(back)}. Connected shards stay connected. Find what restarts before you lower the reserve.`,
    },
    journal: {
      detail: "Grants cannot be recorded.",
      title: "The journal cannot be written.",
      text: "Nothing is granted until it can. See the server's log, and check its disk.",
    },
    engine: {
      detail: "Grants cannot be recorded.",
      title: "Redis cannot be used.",
      text: "Nothing is granted until it can. See the server's log, and check that Redis is up.",
    },
    not_ready: {
      detail: "It crashed, and restarts by itself.",
      title: "The bot is not ready.",
      text: "The server's log says why.",
    },
    ending: {
      detail: "Clients ask again by themselves, and the next server answers.",
      title: "The server is ending.",
      text: "Waiting shards are granted for the rest of the grace period.",
    },
  };
  return known[obstacle] ?? {
    detail: "The reason is unknown here.",
    title: "Nothing is granted.",
    text: printable(obstacle),
  };
}

const letIn = (counts) => counts.i + counts.j;

const totalOf = (counts) => Object.values(counts).reduce((sum, shards) => sum + shards, 0);

const areIn = (counts) =>
  `${number(letIn(counts))} of ${number(totalOf(counts))} ${letIn(counts) === 1 ? "is" : "are"} in`;
