// Whether the figures are current. Without a connection the page says so, and keeps the last ones.

import { byId, mark, say } from "./dom.js";
import { length } from "./words.js";

const SECOND = 1000;
const OLD = 3 * SECOND; // older figures are marked as old

export class Live {
  // Calls `aged` now and then while the figures are old.
  constructor(aged) {
    this.aged = aged;
    this.toldAt = null; // when the last message came
    this.trouble = null; // why none come
    setInterval(() => this.#show(), SECOND);
  }

  told(now) {
    this.toldAt = now;
    this.trouble = null;
    this.#show();
  }

  lost(reason) {
    this.trouble = reason;
    this.#show();
  }

  #show() {
    if (this.toldAt === null) {
      if (this.trouble) say(byId("live"), `Not connected: ${this.trouble}`);
      mark(document.body, "class", this.trouble ? "is-old" : "");
      return;
    }
    const age = Date.now() - this.toldAt;
    const isOld = this.trouble !== null || age > OLD;
    mark(document.body, "class", isOld ? "is-old" : "is-live");
    say(byId("live"), isOld ? `No answer for ${length(age / SECOND)}; these figures are old` : "Live");
    if (isOld) this.aged();
  }
}
