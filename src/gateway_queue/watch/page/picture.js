// The state reported by the feed so far: the server's figures, and each shard's state. Pure.

// The feed's letters, in the order of a shard's life, and their names.
export const STATES = new Map([
  ["i", "Let in"],
  ["j", "Just let in"],
  ["n", "Next in its bucket"],
  ["w", "Waiting"],
  ["a", "Away, place kept"],
  ["c", "In a crash loop"],
  ["x", "Got an op 9"],
  [".", "Not asked yet"],
]);

const HOUR = 3600;
const MOST_EVENTS = 100;

export class Picture {
  summary = null;
  shards = [];
  samples = []; // for the last hour: how many waited, and how many were let in
  every = 10; // seconds between two of them
  sampledAt = 0; // when the last one was taken, in milliseconds
  events = []; // the latest first, each with `at` in milliseconds

  // Apply a message. Returns the shards that changed, or null if all did.
  take({ name, data }, now) {
    this.summary = data.summary;
    if (name === "whole") {
      this.shards = [...data.shards];
      this.every = data.history.every;
      this.samples = data.history.samples;
      this.sampledAt = now - data.history.age * 1000;
      this.events = dated(data.events, now);
      return null;
    }
    if (data.samples.length) {
      this.samples = [...this.samples, ...data.samples].slice(-HOUR / this.every);
      this.sampledAt = now;
    }
    this.events = [...dated(data.events, now), ...this.events].slice(0, MOST_EVENTS);
    const changed = [];
    for (const [letter, shards] of Object.entries(data.changed)) {
      for (const shard of shards) {
        this.shards[shard] = letter;
        changed.push(shard);
      }
    }
    return changed;
  }

  bucketOf(shard) {
    return (shard % this.summary.limits.max_concurrency) % this.summary.buckets.length;
  }

  // How many shards are in each state.
  counts() {
    const counts = Object.fromEntries([...STATES.keys()].map((letter) => [letter, 0]));
    for (const letter of this.shards) counts[letter] += 1;
    return counts;
  }
}

const dated = (events, now) => events.map((event) => ({ ...event, at: now - event.ago * 1000 }));
