/** Shards of a bot that is destroyed at SIGTERM, and ends if nothing of it is left. */

import { REST } from '@discordjs/rest';
import { WebSocketManager } from '@discordjs/ws';
import { Client } from 'discord.js';

import { queueThrottler } from './gateway-queue.js';

const token = process.env.DISCORD_TOKEN;
const buildIdentifyThrottler = queueThrottler({ url: process.env.GATEWAY_QUEUE_URL });

if (process.env.LIBRARY === 'discord.js') {
  const client = new Client({ intents: 0, ws: { buildIdentifyThrottler } });
  process.once('SIGTERM', () => client.destroy());
  void client.login(token);
} else {
  const rest = new REST().setToken(token);
  const manager = new WebSocketManager({ token, intents: 0, rest, buildIdentifyThrottler });
  process.once('SIGTERM', () => manager.destroy());
  void manager.connect();
}
