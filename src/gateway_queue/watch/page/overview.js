// Sums up the figures of several bots in words. Pure. The commands in a terminal say the same
// (cli/verdict.py).

import { STATES } from "./picture.js";
import { verdict } from "./verdict.js";
import { agree, clock, many, number } from "./words.js";

const MOST_NAMES = 5; // in one sentence

export const isStopped = ({ state }) => state === "stopped" || state === "paused";

// A bot with its counts and its verdict.
export function described(bot, now) {
  const counts = countsOf(bot);
  const summary = { ...bot, obstacle: bot.obstacle ?? (bot.ready ? null : "not_ready") };
  return { ...bot, counts, verdict: verdict(summary, counts, now) };
}

// How many shards are in each state. The overview does not say which of the waiting shards had a
// turn before, so all count as waiting.
function countsOf(bot) {
  const counts = Object.fromEntries([...STATES.keys()].map((letter) => [letter, 0]));
  const total = Math.max(bot.recommended_shards ?? 0, bot.shards, bot.waiting + bot.away);
  const others = total - bot.waiting - bot.away;
  counts.w = bot.waiting - bot.waiting_slowed;
  counts.c = bot.waiting_slowed;
  counts.a = bot.away;
  counts.i = Math.min(others, bot.shards);
  counts["."] = others - counts.i;
  return counts;
}

// The verdict on all bots, each with its own verdict.
export function verdictOfAll(bots, { waiting, unknown_bot_waiting: strangers }, now) {
  const stopped = bots.filter((bot) => isStopped(bot.verdict));
  const busy = bots.filter((bot) => bot.waiting);
  const withins = busy.map(({ verdict: { within } }) => within);
  const within = withins.includes(null) ? null : Math.max(0, ...withins);
  const detail = [
    waiting ? `${many(waiting, "shard")} ${agree(waiting, "wait")} at ${many(busy.length, "bot")}.` : "Nobody waits.",
  ];
  if (stopped.length) detail.push(`Stopped: ${names(stopped)}.`);
  if (strangers) {
    detail.push(`${many(strangers, "request")} ${agree(strangers, "wait")} for bots that this server does not have.`);
  }
  if (stopped.length) {
    return {
      state: "stopped",
      headline: `${number(stopped.length)} of ${many(bots.length, "bot")} ${stopped.length === 1 ? "lets" : "let"} nobody in`,
      detail: detail.join(" "),
      within: null,
    };
  }
  return {
    state: waiting ? "busy" : "ready",
    headline: waiting && within !== null ? `Everyone is in by ${clock(within, now)}` : many(bots.length, "bot"),
    detail: detail.join(" "),
    within: waiting ? within : null,
  };
}

function names(bots) {
  const shown = bots.slice(0, MOST_NAMES).map(({ name }) => name);
  const more = bots.length - shown.length;
  return more ? `${shown.join(", ")} and ${number(more)} more` : shown.join(", ");
}
