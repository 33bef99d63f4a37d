/** All shards of a bot, as many as Discord recommends, with @discordjs/ws. */

import { REST } from '@discordjs/rest';
import { WebSocketManager, WebSocketShardEvents } from '@discordjs/ws';

import { queueThrottler } from './gateway-queue.js';

const token = process.env.DISCORD_TOKEN ?? '';

const manager = new WebSocketManager({
  token,
  intents: 0,
  rest: new REST().setToken(token),
  buildIdentifyThrottler: queueThrottler({
    url: process.env.GATEWAY_QUEUE_URL ?? 'http://127.0.0.1:8000',
    apiKey: process.env.GATEWAY_QUEUE_API_KEY,
  }),
});

manager.on(WebSocketShardEvents.Ready, (_, shardId) => console.log(`shard ${shardId} is ready`));

await manager.connect();
