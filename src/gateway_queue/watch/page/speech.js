// What screen readers hear: at once when the state changes, else at most once a minute.

import { byId, say } from "./dom.js";

const MINUTE = 60_000;

let spoken = { state: null, at: 0 };

export function speak(state, words, now) {
  if (state === spoken.state && now < spoken.at + MINUTE) return;
  spoken = { state, at: now };
  say(byId("spoken"), words);
}
