// The page of all bots: each with its verdict and a bar, and the way to the page of its own.

import { byId, element, list, mark, say } from "./dom.js";
import { follow } from "./feed.js";
import { Live } from "./live.js";
import { STATES } from "./picture.js";
import { speak } from "./speech.js";
import { showTab } from "./tab.js";
import { partOf, showBar } from "./tiles.js";
import { verdict } from "./verdict.js";
import { agree, clock, many, number, zone } from "./words.js";

const NAME = "Gateway Queue";
const BADGES = { ready: "Ready", busy: "Granting", paused: "Paused", stopped: "Stopped" };
const STOPPED = ["stopped", "paused"];
const MOST_NAMES = 5; // in one sentence

const live = new Live(showOld);
follow(new URL("feed", import.meta.url), { told, lost: (reason) => live.lost(reason) });

function told({ data }) {
  const now = Date.now();
  const bots = data.bots.map((bot) => described(bot, now)).sort(byTrouble);
  const { state, headline, detail, within } = verdictOfAll(bots, data, now);
  say(byId("headline"), headline);
  say(byId("detail"), detail);
  list(byId("bots"), bots, botRow, fillBot);
  byId("faults").hidden = data.faults.length === 0;
  list(byId("faults-list"), data.faults, () => element("li"), (row, { file, error }) => say(row, `${file}: ${error}`));
  say(byId("footer"), `Gateway Queue ${data.version}. Times are those of this browser: ${zone(now)}.`);
  showTab(state, data.waiting, within, NAME);
  speak(state, `${headline}. ${detail}`, now);
  live.told(now);
}

// Those that let nobody in come first.
function byTrouble(one, other) {
  return STOPPED.includes(other.verdict.state) - STOPPED.includes(one.verdict.state);
}

function showOld() {
  showTab("old", 0, null, NAME);
  speak("old", "The server does not answer; these figures are old.", Date.now());
}

function botRow() {
  const row = element("li", "card");
  const title = element("h3");
  title.append(element("a"), element("span"));
  const bar = element("div", "bar thin");
  bar.setAttribute("aria-hidden", "true");
  row.append(title, element("p"), element("p", "small"), bar);
  return row;
}

function fillBot(row, { name, counts, verdict: { state, headline, detail } }) {
  const [title, words, more, bar] = row.children;
  const [link, badge] = title.children;
  say(link, name);
  mark(link, "href", `bots/${name}/dashboard`);
  say(badge, BADGES[state]);
  mark(badge, "class", `badge ${state}`);
  say(words, headline);
  say(more, detail);
  showBar(bar, [...STATES.keys()].map((letter) => [partOf(letter), counts[letter]]));
}

function described(bot, now) {
  const counts = countsOf(bot);
  const summary = { ...bot, obstacle: bot.obstacle ?? (bot.ready ? null : "not_ready") };
  return { ...bot, counts, verdict: verdict(summary, counts, now) };
}

// How many shards are in each state, as far as the overview tells: it does not say which shards
// of those that wait had a turn before, so these count as waiting only.
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

function verdictOfAll(bots, { waiting, unknown_bot_waiting: strangers }, now) {
  const stopped = bots.filter(({ verdict: { state } }) => STOPPED.includes(state));
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
