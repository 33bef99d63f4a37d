/**
 * Has a bot with discord.js 14 or @discordjs/ws 2 ask a Gateway Queue before each IDENTIFY.
 *
 * Copy this file into your bot. It needs Node 20 or newer, and no package.
 */

import { setTimeout as sleep } from 'node:timers/promises';

/**
 * @typedef {import('@discordjs/ws').WebSocketManager} WebSocketManager
 * @typedef {import('@discordjs/ws').IIdentifyThrottler} IIdentifyThrottler
 * @typedef {{ status: number, said: any, why: string }} Answer `status` 0: there is none
 */

// Nothing else is a permission, whatever its status: it may be somebody else's page.
const GRANT = "You're free to connect now! :)";

// Seconds for which one request is held: less than the least patient proxy (Envoy, 15 s) bears,
// and far less than the 300 s after which Node's fetch gives up.
const HOLD = 10;

// Milliseconds after which a request without an answer is given up: the server has vanished.
const ANSWER_WITHIN = 20_000;

// Milliseconds between attempts that fail: doubled each time, with jitter. After the longest the
// server still keeps the shard's place (GATEWAY_QUEUE_SEAT_TTL, 60 s).
const FIRST_PAUSE = 500;
const LONGEST_PAUSE = 10_000;

// In some four seconds; soon after that the bucket opens without a confirmation.
const CONFIRM_ATTEMPTS = 4;

/**
 * What a bot gives as `buildIdentifyThrottler`.
 *
 * @param {{ url: string, apiKey?: string }} queue its address, such as `http://127.0.0.1:8000`;
 *   if that has a path, a proxy has to take it away before the server sees it
 * @returns {(manager: WebSocketManager) => IIdentifyThrottler}
 */
export function queueThrottler({ url, apiKey }) {
  const queue = new GatewayQueue(url, apiKey);
  return (manager) => {
    /** @type {Set<number>} */
    const unconfirmed = new Set();
    /** @param {any[]} args the event's; in version 1 an object, in 2 the shard's id comes last */
    const confirm = (args) => {
      const shardId = args.at(-1)?.shardId ?? args.at(-1);
      if (unconfirmed.delete(shardId)) void queue.confirm(shardId);
    };
    // Said as the IDENTIFY is sent, by shards in worker threads too. A version with other words
    // for it confirms at READY: later than need be, but as safe.
    manager.on('debug', (/** @type {any[]} */ ...args) => {
      if (String(args[0]?.message ?? args[0]).startsWith('Identifying')) confirm(args);
    });
    manager.on('ready', (/** @type {any[]} */ ...args) => confirm(args));
    return {
      async waitForIdentify(shardId, signal) {
        await queue.turn(shardId, signal);
        unconfirmed.add(shardId);
      },
    };
  };
}

class GatewayQueue {
  #address;
  /** @type {Record<string, string>} */
  #headers;

  /**
   * @param {string} url
   * @param {string} [apiKey]
   */
  constructor(url, apiKey) {
    const { protocol, username, origin, pathname } = new URL(url);
    if (!/^https?:$/.test(protocol) || username) {
      throw new TypeError('url must be an http or https address, without a user in it');
    }
    // Otherwise fetch complains at each request, and has the key in what it says.
    if (apiKey !== undefined && !/^[!-~]+$/.test(apiKey)) {
      throw new TypeError('apiKey must be of visible ASCII characters; is a newline at its end?');
    }
    this.#address = origin + pathname.replace(/\/$/, '');
    this.#headers = apiKey === undefined ? {} : { Authorization: `Bearer ${apiKey}` };
  }

  /**
   * Resolves when the shard may identify. Rejects only if the signal is aborted: after any other
   * rejection the libraries send an IDENTIFY more.
   *
   * @param {number} shardId
   * @param {AbortSignal} signal
   */
  async turn(shardId, signal) {
    const path = `/?shard=${shardId}&wait=${HOLD}&confirm=true`;
    let failures = 0;
    for (;;) {
      const { status, said, why } = await this.#send('GET', path, signal);
      signal.throwIfAborted();
      if (status === 200 && said?.message === GRANT) return;
      if (status === 202 && said?.reason) {
        failures = 0;
        continue;
      }
      if (failures === 0) {
        console.warn(`shard ${shardId} asks the queue again until it answers: ${why}`);
      }
      await sleep(pause(failures++), undefined, { signal });
    }
  }

  /**
   * Says that the shard's IDENTIFY was sent. Never rejects.
   *
   * @param {number} shardId
   */
  async confirm(shardId) {
    for (let failures = 0; ; failures++) {
      const { status, why } = await this.#send('POST', `/confirm?shard=${shardId}`);
      if (status === 204) return;
      if (status === 404 || failures === CONFIRM_ATTEMPTS - 1) {
        console.warn(`shard ${shardId} could not confirm its IDENTIFY: ${why}`);
        return;
      }
      await sleep(pause(failures));
    }
  }

  /**
   * @param {string} method
   * @param {string} path
   * @param {AbortSignal} [signal] aborts the request, and by that leaves the queue
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
        redirect: 'manual', // or the key goes wherever somebody else's page says
        signal: controller.signal,
      });
      const { status, statusText } = response;
      const said = await response.json().catch(() => null);
      const detail = said?.detail ?? `${statusText}, which is not the queue's answer`;
      return { status, said, why: `${status} ${detail}` };
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
 * @returns {number} milliseconds; not all shards at the same moment
 */
function pause(failures) {
  const longest = Math.min(FIRST_PAUSE * 2 ** failures, LONGEST_PAUSE);
  return longest * (1 + Math.random()) / 2;
}
