// The page: what the feed tells goes into the picture, and from there to what is seen.

import { drawBurnDown } from "./charts.js";
import { byId, element, list, mark, say } from "./dom.js";
import { follow } from "./feed.js";
import { ShardMap } from "./map.js";
import { Picture, STATES } from "./picture.js";
import { showShard } from "./shard.js";
import { showTab } from "./tab.js";
import { showBuckets, showEvents } from "./tables.js";
import { showBar, showTiles } from "./tiles.js";
import { verdict } from "./verdict.js";
import { length, many, number, zone } from "./words.js";

const FEED = new URL("feed", import.meta.url);
const SHARDS = new URL("../status/shards/", import.meta.url);
const SECOND = 1000;
const OLD = 3 * SECOND; // figures older than that are said to be
const MINUTE = 60 * SECOND;

const picture = new Picture();
const map = new ShardMap(byId("map"), byId("map-help"), choose);
let toldAt = null; // when the last message came
let trouble = null; // why there are none
let key = null;
let chosenShard = null;

follow(FEED, { told, lost, locked });
setInterval(showAge, SECOND);
byId("find").addEventListener("submit", find);
addEventListener("resize", () => picture.summary && showVerdict(Date.now()));

function told(message) {
  const now = Date.now();
  toldAt = now;
  trouble = null;
  const changed = picture.take(message, now);
  showVerdict(now);
  showTiles(picture, now, choose);
  map.update(picture, changed);
  const { buckets } = picture.summary;
  say(byId("shards-number"), `${number(picture.shards.length)} in ${many(buckets.length, "bucket")}`);
  showBuckets(picture, now);
  showEvents(picture.events, now);
  showFooter(now);
  showAge();
  readShard();
}

function lost(reason) {
  trouble = reason;
  showAge();
}

function showVerdict(now) {
  const { summary } = picture;
  const counts = picture.counts();
  const { state, headline, detail, within, banner } = verdict(summary, counts, now);
  say(byId("headline"), headline);
  say(byId("detail"), detail);
  byId("banner").hidden = banner === null;
  say(byId("banner-title"), banner?.title ?? "");
  say(byId("banner-text"), banner?.text ?? "");
  const states = [...STATES].filter(([letter]) => counts[letter]);
  showBar(byId("bar"), states.map(([letter]) => [partOf(letter), counts[letter]]));
  list(byId("counts"), states, countRow, (row, [letter, name]) => {
    mark(row.children[0], "class", `part ${partOf(letter)}`);
    say(row.children[1], number(counts[letter]));
    say(row.children[2], name);
  });
  drawBurnDown(byId("burn-down"), picture, within, now);
  showTab(state, summary, within);
  speak(state, `${headline}. ${detail}`, now);
}

// The name of a state in the style sheet.
const partOf = (letter) => (letter === "." ? "state-none" : `state-${letter}`);

function countRow() {
  const row = element("li");
  row.append(element("span"), element("b"), element("span"));
  return row;
}

// What screen readers hear: at once when the state changes, else at most once a minute.
let spoken = { state: null, at: 0 };

function speak(state, words, now) {
  if (state === spoken.state && now < spoken.at + MINUTE) return;
  spoken = { state, at: now };
  say(byId("spoken"), words);
}

// Whether the figures are of now. A page that is lost says so, and keeps what it knows.
function showAge() {
  if (toldAt === null) {
    if (trouble) say(byId("live"), `Not connected: ${trouble}`);
    mark(document.body, "class", trouble ? "is-old" : "");
    return;
  }
  const now = Date.now();
  const age = now - toldAt;
  const isOld = trouble !== null || age > OLD;
  mark(document.body, "class", isOld ? "is-old" : "is-live");
  const words = `No answer for ${length(age / SECOND)}; these figures are old`;
  say(byId("live"), isOld ? words : "Live");
  if (!isOld) return;
  showTab("old", picture.summary, null);
  speak("old", "The server does not answer; these figures are old.", now);
}

function showFooter(now) {
  const { version, uptime, viewers } = picture.summary;
  const looks = `${viewers === 1 ? "1 person looks" : `${number(viewers)} people look`} at this page`;
  const times = `Times are those of this browser: ${zone(now)}`;
  say(byId("footer"), `Gateway Queue ${version}, up for ${length(uptime)}. ${looks}. ${times}.`);
}

function find(event) {
  event.preventDefault();
  const shard = byId("find-number").value.trim();
  if (/^\d+$/.test(shard)) choose(Number(shard));
}

function choose(shard) {
  chosenShard = shard;
  map.show(shard);
  readShard();
}

// The feed has only the state of each shard. Its details are asked for at each message, for the
// one that this viewer has chosen.
let isReading = false;

async function readShard() {
  if (chosenShard === null || isReading) return;
  const shard = chosenShard;
  const hasAsked = (picture.shards[shard] ?? ".") !== "." || picture.summary?.beside;
  if (!hasAsked) {
    showShard(shard, null, Date.now());
    return;
  }
  isReading = true;
  try {
    const headers = key === null ? {} : { Authorization: `Bearer ${key}` };
    const answer = await fetch(new URL(String(shard), SHARDS), { headers, cache: "no-store" });
    if (shard === chosenShard) showShard(shard, answer.ok ? await answer.json() : null, Date.now());
  } catch {
    // The feed is lost as well, and says so.
  } finally {
    isReading = false;
  }
  if (shard !== chosenShard) readShard();
}

// Ask for the API key until there is one to try.
function locked(wasWrong) {
  const dialog = byId("key-dialog");
  const why = wasWrong
    ? "This is not the key that the server expects."
    : "This server shows its figures only to those who have its API key.";
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
      resolve(key);
    };
  });
}
