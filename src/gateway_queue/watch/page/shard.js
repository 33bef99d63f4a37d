// The details of one shard, fetched from the server.

import { byId, element, list, say } from "./dom.js";
import { clock, length, number } from "./words.js";

const REASONS = {
  interval: "its turn",
  reserve: "session starts",
  limits_unknown: "Discord's limits",
  journal: "the journal",
  engine: "Redis",
  crash_loop: "the end of its pause",
  ending: "the next server",
  paused: "the end of the pause",
};
const STATES = { waiting: "waiting", away: "away, its place is kept", granted: "let in" };

export function showShard(shard, details, now) {
  say(byId("shard-name"), `Shard ${shard}`);
  say(byId("shard-state"), details ? STATES[details.state] : "has not asked in the last 24 hours");
  list(byId("shard-facts"), details ? facts(details, now) : [], factRow, (row, [name, value]) => {
    say(row.children[0], name);
    say(row.children[1], value);
  });
}

function facts(details, now) {
  const { seat } = details;
  const found = [["Bucket", number(details.bucket)]];
  if (seat) {
    found.push(["Position", number(seat.position)]);
    const expected = seat.expected_in;
    found.push([
      "Expected",
      expected === null ? "not known" : `${clock(expected, now)}, in ${length(expected)}`,
    ]);
    found.push(["Waits for", REASONS[seat.reason] ?? seat.reason]);
    found.push(["Has waited", length(details.waited)]);
    if (details.requests > 1) found.push(["Requests", number(details.requests)]);
  }
  if (details.away_for !== null) found.push(["Away for", length(details.away_for)]);
  if (details.granted_ago !== null) {
    const ago = details.granted_ago;
    found.push(["Let in", `${clock(-ago, now)}, ${length(ago)} ago`]);
    found.push(["Starts in 24 h", number(details.starts)]);
  }
  if (details.level) found.push(["Crash loop", `level ${details.level}`]);
  if (details.eligible_in) found.push(["May be next in", length(details.eligible_in)]);
  return found;
}

function factRow() {
  const row = element("div");
  row.append(element("dt"), element("dd"));
  return row;
}
