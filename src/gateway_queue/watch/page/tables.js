// The table of buckets, which replaces the map for screen readers, and the list of events.

import { byId, element, list, mark, say } from "./dom.js";
import { agree, clock, length, number } from "./words.js";

// A replica of which nothing was heard for so many seconds.
const SILENT = 1;

export function showBuckets(picture, now) {
  const { buckets, obstacle } = picture.summary;
  const letIn = buckets.map(() => 0);
  picture.shards.forEach((letter, shard) => {
    if (letter === "i" || letter === "j") letIn[picture.bucketOf(shard)] += 1;
  });
  const rows = buckets.map(([waiting, away, opensIn, allInIn], bucket) => [
    number(bucket),
    number(letIn[bucket]),
    number(waiting),
    number(away),
    waiting ? (obstacle ? "held" : Math.round(opensIn) ? `in ${length(opensIn)}` : "now") : "",
    waiting ? (allInIn === null ? "not known" : clock(allInIn, now)) : "",
  ]);
  list(byId("buckets"), rows, bucketRow, (row, cells) => {
    cells.forEach((cell, index) => {
      say(row.children[index], cell);
      mark(row.children[index], "class", cell === "0" && index ? "zero" : "");
    });
  });
  say(byId("buckets-last"), last(buckets));
}

function bucketRow() {
  const row = element("tr");
  const name = element("th");
  name.scope = "row";
  row.append(name, ...Array.from({ length: 5 }, () => element("td")));
  return row;
}

// The bucket that finishes last.
function last(buckets) {
  const busy = buckets.map(([waiting, , , allInIn], bucket) => [allInIn, bucket, waiting])
    .filter(([allInIn, , waiting]) => waiting && allInIn !== null);
  if (busy.length < 2) return "";
  return `Bucket ${busy.reduce((a, b) => (b[0] > a[0] ? b : a))[1]} is the last`;
}

export function showReplicas(replicas) {
  byId("replicas-card").hidden = !replicas;
  list(byId("replicas"), replicas ?? [], replicaRow, (row, { name, waiting, silent_for: silent, leads }) => {
    const isSilent = silent >= SILENT;
    mark(row, "class", isSilent ? "bad" : "");
    say(row.children[0], leads ? `${name}, which leads` : name);
    say(row.children[1], isSilent ? `silent for ${length(silent)}` : `${number(waiting)} ${agree(waiting, "wait")}`);
  });
}

function replicaRow() {
  const row = element("li");
  row.append(element("span"), element("span"));
  return row;
}

const SIGNS = { info: "·", warning: "!", error: "!!" };

export function showEvents(events, now) {
  list(byId("events"), events, eventRow, (row, { at, level, text }) => {
    mark(row, "class", level);
    mark(row.children[0], "datetime", new Date(at).toISOString());
    say(row.children[0], clock((at - now) / 1000, now, { precise: true }));
    say(row.children[1], SIGNS[level]);
    say(row.children[2], text);
  });
}

function eventRow() {
  const row = element("li");
  const sign = element("span", "sign");
  sign.setAttribute("aria-hidden", "true");
  row.append(element("time"), sign, element("span"));
  return row;
}
