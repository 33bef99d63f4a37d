// The four tiles: session starts, pace, crash loops, op 9s.

import { byId, element, list, mark, say } from "./dom.js";
import { drawPace } from "./charts.js";
import { clock, length, many, number } from "./words.js";

export function showTiles(picture, now, chosen) {
  const { summary } = picture;
  showStarts(summary, now);
  showPace(picture, now);
  showLoops(summary.slowed_down, chosen);
  showRefused(summary.invalid_sessions);
}

function showStarts({ limits, waiting, covered, back_in: back }, now) {
  const left = Math.max(0, limits.remaining - limits.reserve);
  const used = Math.max(0, limits.total - limits.remaining);
  const kept = Math.min(limits.remaining, limits.reserve);
  const missing = waiting - covered;
  say(byId("starts"), limits.known ? number(left) : "Unknown");
  say(byId("starts-unit"), limits.known ? "may be granted" : "");
  mark(byId("starts"), "class", limits.known && !left ? "bad" : "");
  const enough = missing
    ? `${number(missing)} too few for the waiting shards`
    : waiting
      ? `Enough for the ${number(waiting)} waiting, ${number(left - waiting)} to spare`
      : `Of ${number(limits.total)} in 24 hours`;
  say(byId("starts-enough"), limits.known ? enough : "Discord has not said yet");
  const parts = [["used", used], ["needed", covered], ["free", left - covered], ["kept", kept]];
  showBar(byId("starts-bar"), limits.known ? parts : []);
  const more = [];
  if (limits.known) {
    more.push(`${number(used)} used, ${number(kept)} in reserve.`);
    if (used) {
      const what = limits.source === "discord" ? "Back" : "The first is back";
      more.push(`${what} at ${clock(back, now)}, in ${length(back)}.`);
    }
    more.push(limits.age === null ? "Counted here, without a token." : `Discord said so ${length(limits.age)} ago.`);
  }
  if (limits.known && limits.failure) more.push(`The last reading failed: ${limits.failure.error}`);
  say(byId("starts-more"), more.join(" "));
}

function showPace(picture, now) {
  const { pace, buckets } = picture.summary;
  say(byId("pace"), number(pace.granted));
  say(byId("pace-possible"), `of ${number(pace.possible)} possible`);
  const { interval, configured = interval, ends_in: rest } = pace;
  const every = `${many(buckets.length, "bucket")}, one shard every ${interval} s in each`;
  const isSlowed = interval !== configured;
  const until = rest === null ? "somebody ends it" : clock(rest, now);
  const slower = ` instead of ${configured} s: an operator slowed it down until ${until}`;
  say(byId("pace-more"), isSlowed ? every + slower : every);
  mark(byId("pace-more"), "class", isSlowed ? "small slowed" : "small");
  drawPace(byId("pace-chart"), picture);
}

function showLoops({ shards, longest }, chosen) {
  say(byId("loops"), shards ? number(shards) : "None");
  mark(byId("loops"), "class", shards ? "loop" : "");
  say(byId("loops-more"), shards ? "slowed down; the others are not delayed" : "no shard keeps restarting");
  list(byId("loops-list"), longest.slice(0, 4), () => loopRow(chosen), fillLoop);
}

function loopRow(chosen) {
  const row = element("li");
  const name = element("button", "link");
  name.type = "button";
  name.addEventListener("click", () => chosen(Number(name.dataset.shard)));
  row.append(name, element("span"));
  return row;
}

function fillLoop(row, { shard, starts, eligible_in: eligible }) {
  const [name, more] = row.children;
  name.disabled = shard === null;
  mark(name, "data-shard", shard ?? "");
  say(name, shard === null ? "Without a number" : `Shard ${shard}`);
  say(more, `${many(starts, "start")}, next in ${length(eligible)}`);
}

function showRefused({ reports, shards }) {
  const names = shards.slice(0, 6).map(({ shard }) => shard).join(", ");
  say(byId("refused"), reports ? number(reports) : "None");
  mark(byId("refused"), "class", reports ? "bad" : "");
  say(byId("refused-more"), reports ? `refused by Discord: ${shards.length > 1 ? "shards" : "shard"} ${names}` : "reported by clients");
  say(byId("refused-hint"), reports ? "Look for a program that identifies without asking." : "");
}

// The name of a state of shards in the style sheet.
export const partOf = (letter) => (letter === "." ? "state-none" : `state-${letter}`);

// Parts of a whole, side by side.
export function showBar(bar, parts) {
  const shown = parts.filter(([, amount]) => amount > 0);
  list(bar, shown, () => element("span"), (part, [name, amount]) => {
    mark(part, "class", `part ${name}`);
    part.style.flexGrow = amount;
  });
}
