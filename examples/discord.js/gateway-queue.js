/**
 * Makes a bot with discord.js 14 or @discordjs/ws 2 ask a Gateway Queue before each IDENTIFY.
 *
 * Copy this file into your bot. It needs Node 20 or newer, and no packages.
 */

import { setTimeout as sleep } from 'node:timers/promises';

/**
 * @typedef {import('@discordjs/ws').WebSocketManager} WebSocketManager
 * @typedef {import('@discordjs/ws').IIdentifyThrottler} IIdentifyThrottler
 * @typedef {{ status: number, said: any, why: string, grant?: string }} Answer `status` 0: no
 *   answer; `grant`: its number, if the server numbers grants
 */

// Nothing else is permission, whatever its status: it may be another server's page.
const GRANT = "You're free to connect now! :)";

// The least and most seconds for which one request is held. It varies, because shards that began
// together would otherwise keep asking together. The least patient proxy (Envoy) gives up after
// 15 s, and Node's fetch after 300 s.
const SHORTEST_HOLD = 10;
const LONGEST_HOLD = 14;

// Milliseconds after which a request without an answer is abandoned: the server has vanished.
const ANSWER_WITHIN = 20_000;

// Milliseconds between failed attempts: doubled each time, with jitter. Even after the longest,
// the server still keeps the shard's place (GATEWAY_QUEUE_SEAT_TTL, 60 s).
const FIRST_PAUSE = 500;
const LONGEST_PAUSE = 10_000;

// Takes some four seconds; soon after that, the bucket opens without a confirmation.
const CONFIRM_ATTEMPTS = 4;

/**
 * Creates the function to pass as `buildIdentifyThrottler`.
 *
 * @param {{ url: string, apiKey?: string }} queue its address, such as `http://127.0.0.1:8000`; a
 *   path is that of one of several bots, `/bots/NAME`, or a prefix that a proxy strips
 * @returns {(manager: WebSocketManager) => IIdentifyThrottler}
 */
export function queueThrottler({ url, apiKey }) {
  const queue = new GatewayQueue(url, apiKey);
  return (manager) => {
    /** @type {Map<number, string | undefined>} the grants of shards that Discord has to answer */
    const grants = new Map();
    /** @param {any[]} args the event's; in version 1 an object, in 2 the shard's id comes last */
    const shardOf = (args) => args.at(-1)?.shardId ?? args.at(-1);
    // This message is emitted when the IDENTIFY is sent, also by shards in worker threads. With a
    // version that words it differently, only READY is confirmed: later than necessary, but safe.
    manager.on('debug', (/** @type {any[]} */ ...args) => {
      const shardId = shardOf(args);
      if (!String(args[0]?.message ?? args[0]).startsWith('Identifying')) return;
      if (grants.has(shardId)) void queue.confirm(shardId, grants.get(shardId));
    });
    manager.on('ready', (/** @type {any[]} */ ...args) => {
      const shardId = shardOf(args);
      if (grants.has(shardId)) void queue.confirm(shardId, grants.get(shardId), 'ready');
      grants.delete(shardId);
    });
    return {
      async waitForIdentify(shardId, signal) {
        grants.delete(shardId);
        grants.set(shardId, await queue.turn(shardId, signal));
      },
    };
  };
}

class GatewayQueue {
  #address;
  /** @type {Record<string, string>} */
  #headers;
  /** @type {Set<number>} the shards whose last request had no answer */
  #failing = new Set();
  #away = false; // according to the last message logged
  /** @type {Map<number, AbortController>} the confirmations in progress, by shard */
  #confirming = new Map();

  /**
   * @param {string} url
   * @param {string} [apiKey]
   */
  constructor(url, apiKey) {
    const { protocol, username, origin, pathname } = new URL(url);
    if (!/^https?:$/.test(protocol) || username) {
      throw new TypeError('url must be an http or https address, without a user in it');
    }
    // Otherwise fetch fails at each request, with the key in its error message.
    if (apiKey !== undefined && !/^[!-~]+$/.test(apiKey)) {
      throw new TypeError('apiKey must be of visible ASCII characters; is a newline at its end?');
    }
    this.#address = origin + pathname.replace(/\/$/, '');
    this.#headers = apiKey === undefined ? {} : { Authorization: `Bearer ${apiKey}` };
  }

  /**
   * Resolves when the shard may identify. Rejects only if the signal is aborted: after any other
   * rejection, the libraries send one IDENTIFY too many.
   *
   * @param {number} shardId
   * @param {AbortSignal} signal
   * @returns {Promise<string | undefined>} the number of the grant
   */
  async turn(shardId, signal) {
    this.#confirming.get(shardId)?.abort(); // of the turn before
    let failures = 0;
    try {
      for (;;) {
        const hold = SHORTEST_HOLD + Math.random() * (LONGEST_HOLD - SHORTEST_HOLD);
        const path = `/?shard=${shardId}&wait=${hold.toFixed(1)}&confirm=true`;
        const { status, said, why, grant } = await this.#send('GET', path, signal);
        signal.throwIfAborted();
        const granted = status === 200 && said?.message === GRANT;
        if (granted || (status === 202 && said?.reason)) {
          failures = 0;
          this.#answers(shardId);
          if (granted) return grant;
          continue;
        }
        this.#fails(shardId, why);
        await sleep(pause(failures++), undefined, { signal });
      }
    } finally {
      this.#failing.delete(shardId);
    }
  }

  /**
   * Reports that the shard's IDENTIFY was sent, or with `ready` that Discord has answered it.
   * Replaces a report for the shard that is still in progress. Never rejects.
   *
   * @param {number} shardId
   * @param {string} [grant]
   * @param {'ready'} [outcome]
   */
  async confirm(shardId, grant, outcome) {
    const query = new URLSearchParams({ shard: String(shardId) });
    if (grant !== undefined) query.set('grant', grant);
    if (outcome !== undefined) query.set('outcome', outcome);
    this.#confirming.get(shardId)?.abort();
    const confirming = new AbortController();
    this.#confirming.set(shardId, confirming);
    for (let failures = 0; ; failures++) {
      const { status, why } = await this.#send('POST', `/confirm?${query}`, confirming.signal);
      if (status === 204 || confirming.signal.aborted) return;
      if (status === 400 || status === 404 || failures === CONFIRM_ATTEMPTS - 1) {
        console.warn(`shard ${shardId} could not confirm its IDENTIFY: ${why}`);
        return;
      }
      await sleep(pause(failures));
    }
  }

  /**
   * Warns that the queue does not answer, once for all shards.
   *
   * @param {number} shardId
   * @param {string} why
   */
  #fails(shardId, why) {
    if (!this.#away) console.warn(`asking the queue again until it answers: ${why}`);
    this.#away = true;
    this.#failing.add(shardId);
  }

  /** @param {number} shardId */
  #answers(shardId) {
    this.#failing.delete(shardId);
    if (this.#away && this.#failing.size === 0) {
      console.info('the queue answers again');
      this.#away = false;
    }
  }

  /**
   * @param {string} method
   * @param {string} path
   * @param {AbortSignal} [signal] aborts the request, which leaves the queue
   * @returns {Promise<Answer>}
   */
  async #send(method, path, signal) {
    // Not AbortSignal.any: in some versions of Node it misses an abort (nodejs/node#57736, #65995).
    const controller = new AbortController();
    const abort = () => controller.abort(signal?.reason);
    const giveUp = () => controller.abort(new Error(`no answer within ${ANSWER_WITHIN / 1000} s`));
    const timer = setTimeout(giveUp, ANSWER_WITHIN);
    signal?.addEventListener('abort', abort);
    if (signal?.aborted) abort();
    try {
      const response = await fetch(this.#address + path, {
        method,
        headers: this.#headers,
        redirect: 'manual', // otherwise the key follows another server's redirect
        signal: controller.signal,
      });
      const { status, statusText, headers } = response;
      const said = await response.json().catch(() => null);
      const detail = said?.detail ?? `${statusText}, which is not the queue's answer`;
      const grant = headers.get('x-gateway-queue-grant') ?? undefined;
      return { status, said, why: `${status} ${detail}`, grant };
    } catch (/** @type {any} */ error) {
      const { cause = error } = error; // undici's own "fetch failed" says nothing
      return { status: 0, said: null, why: cause.message || cause.code };
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener('abort', abort);
    }
  }
}

/**
 * @param {number} failures so far
 * @returns {number} milliseconds, random so that shards do not retry in step
 */
function pause(failures) {
  const longest = Math.min(FIRST_PAUSE * 2 ** failures, LONGEST_PAUSE);
  return longest * (1 + Math.random()) / 2;
}
