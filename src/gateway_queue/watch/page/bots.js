// The page of all bots: each with its verdict, a bar, and a link to its own page.

import { byId, element, list, mark, say } from "./dom.js";
import { follow } from "./feed.js";
import { Live } from "./live.js";
import { described, isStopped, verdictOfAll } from "./overview.js";
import { STATES } from "./picture.js";
import { speak } from "./speech.js";
import { showTab } from "./tab.js";
import { partOf, showBar } from "./tiles.js";
import { zone } from "./words.js";

const NAME = "Gateway Queue";
const BADGES = { ready: "Ready", busy: "Granting", paused: "Paused", stopped: "Stopped" };

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
  say(byId("footer"), `Gateway Queue ${data.version}. Times are in this browser's time zone: ${zone(now)}.`);
  showTab(state, data.waiting, within, NAME);
  speak(state, `${headline}. ${detail}`, now);
  live.told(now);
}

// Bots that let nobody in come first.
function byTrouble(one, other) {
  return isStopped(other.verdict) - isStopped(one.verdict);
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
