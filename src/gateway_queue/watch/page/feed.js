// Follows the server's feed, and reconnects when it is lost. Uses fetch, because EventSource
// cannot send a key. A hidden tab has no connection: browsers allow six for each server.

import { askForKey, authorization } from "./key.js";

const SILENCE = 10_000; // milliseconds without a message before the connection is given up
const PAUSES = [500, 1000, 2000, 5000]; // milliseconds before each attempt

// Calls `told` with each message, and `lost` with the reason whenever the feed is lost.
export async function follow(url, { told, lost }) {
  let failures = 0;
  for (;;) {
    await visible();
    const connection = new AbortController();
    const hide = () => document.hidden && connection.abort();
    document.addEventListener("visibilitychange", hide);
    const patience = new Patience(() => connection.abort());
    try {
      const answer = await fetch(url, {
        headers: authorization(), signal: connection.signal, cache: "no-store",
      });
      if (answer.status === 401) {
        patience.end();
        await askForKey();
        continue;
      }
      if (!answer.ok) throw new Error((await answer.json()).detail);
      for await (const message of messages(answer.body)) {
        patience.again();
        failures = 0;
        told(message);
      }
      throw new Error("the server ended the feed");
    } catch (error) {
      if (document.hidden) continue;
      lost(error.name === "Error" ? error.message : "the server does not answer");
    } finally {
      patience.end();
      document.removeEventListener("visibilitychange", hide);
    }
    await new Promise((resolve) => setTimeout(resolve, PAUSES[Math.min(failures++, PAUSES.length - 1)]));
  }
}

class Patience {
  constructor(giveUp) {
    this.giveUp = giveUp;
    this.again();
  }

  again() {
    clearTimeout(this.timer);
    this.timer = setTimeout(this.giveUp, SILENCE);
  }

  end() {
    clearTimeout(this.timer);
  }
}

function visible() {
  if (!document.hidden) return Promise.resolve();
  return new Promise((resolve) => {
    document.addEventListener("visibilitychange", resolve, { once: true });
  });
}

// https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation,
// reduced to what our server uses: an event has a name and one line of data.
async function* messages(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let received = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (received + value).split("\n\n");
    received = parts.pop();
    for (const part of parts) {
      const [, name, data] = part.match(/^event: (\w+)\ndata: (.*)$/);
      yield { name, data: JSON.parse(data) };
    }
  }
}
