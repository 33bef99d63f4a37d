// The page: applies the feed's messages to the picture, and shows the picture.

import { drawBurnDown } from "./charts.js";
import { byId, element, list, mark, say } from "./dom.js";
import { follow } from "./feed.js";
import { authorization } from "./key.js";
import { Live } from "./live.js";
import { ShardMap } from "./map.js";
import { Picture, STATES } from "./picture.js";
import { preparePlan } from "./plan.js";
import { showShard } from "./shard.js";
import { speak } from "./speech.js";
import { prepareSteering, showShardActions, showSteering } from "./steer.js";
import { showTab } from "./tab.js";
import { showBuckets, showEvents, showReplicas } from "./tables.js";
import { partOf, showBar, showTiles } from "./tiles.js";
import { verdict } from "./verdict.js";
import { length, many, number, zone } from "./words.js";

const HERE = new URL("..", import.meta.url); // the base of the bot's pages
const FEED = new URL("dashboard/feed", HERE);
const SHARDS = new URL("status/shards/", HERE);

// The bot that this page is about, if there are several.
const BOT = HERE.pathname.match(/\/bots\/([^/]+)\/$/)?.[1];
const NAME = BOT ? `${BOT} \u2013 Gateway Queue` : "Gateway Queue";

const picture = new Picture();
const map = new ShardMap(byId("map"), byId("map-help"), choose);
const live = new Live(showOld);
let chosenShard = null;

say(byId("bot"), BOT ?? "");
byId("all-bots").hidden = !BOT;
preparePlan(HERE, picture);
prepareSteering(HERE);
follow(FEED, { told, lost: (reason) => live.lost(reason) });
byId("find").addEventListener("submit", find);
addEventListener("resize", () => picture.summary && showVerdict(Date.now()));

function told(message) {
  const now = Date.now();
  const changed = picture.take(message, now);
  showVerdict(now);
  showTiles(picture, now, choose);
  showSteering(picture.summary);
  map.update(picture, changed);
  const { buckets } = picture.summary;
  say(byId("shards-number"), `${number(picture.shards.length)} in ${many(buckets.length, "bucket")}`);
  showBuckets(picture, now);
  showEvents(picture.events, now);
  showReplicas(picture.summary.replicas);
  showFooter(now);
  live.told(now);
  readShard();
}

function showOld() {
  showTab("old", 0, null, NAME);
  speak("old", "The server does not answer; these figures are old.", Date.now());
}

function showVerdict(now) {
  const { summary } = picture;
  const counts = picture.counts();
  const { state, headline, detail, within, banner } = verdict(summary, counts, now);
  say(byId("headline"), headline);
  say(byId("detail"), detail);
  byId("banner").hidden = banner === null;
  mark(byId("banner"), "class", state === "paused" ? "banner paused" : "banner");
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
  showTab(state, summary.waiting, within, NAME);
  speak(state, `${headline}. ${detail}`, now);
}

function countRow() {
  const row = element("li");
  row.append(element("span"), element("b"), element("span"));
  return row;
}

function showFooter(now) {
  const { version, uptime, viewers } = picture.summary;
  const looks = `${viewers === 1 ? "1 person is watching" : `${number(viewers)} people are watching`} this page`;
  const times = `Times are in this browser's time zone: ${zone(now)}`;
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

// The feed only has the state of each shard. With each message, the details of the shard that
// this viewer has chosen are fetched.
let isReading = false;

async function readShard() {
  if (chosenShard === null || isReading) return;
  const shard = chosenShard;
  const hasAsked = (picture.shards[shard] ?? ".") !== "." || picture.summary?.beside;
  if (!hasAsked) {
    show(shard, null);
    return;
  }
  isReading = true;
  try {
    const headers = authorization();
    const answer = await fetch(new URL(String(shard), SHARDS), { headers, cache: "no-store" });
    const details = answer.ok ? await answer.json() : null;
    if (shard === chosenShard) show(shard, details);
  } catch {
    // The feed is lost too, and reports it.
  } finally {
    isReading = false;
  }
  if (shard !== chosenShard) readShard();
}

function show(shard, details) {
  showShard(shard, details, Date.now());
  showShardActions(shard, details, picture.summary?.operator);
}
