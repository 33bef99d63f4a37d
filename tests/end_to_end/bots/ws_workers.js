/** The example's ws.js, with two shards in each worker thread. */

import { REST } from '@discordjs/rest';
import { WebSocketManager, WorkerShardingStrategy } from '@discordjs/ws';

import { queueThrottler } from './gateway-queue.js';

const token = process.env.DISCORD_TOKEN;

const manager = new WebSocketManager({
  token,
  intents: 0,
  rest: new REST().setToken(token),
  buildIdentifyThrottler: queueThrottler({ url: process.env.GATEWAY_QUEUE_URL }),
  buildStrategy: (manager) => new WorkerShardingStrategy(manager, { shardsPerWorker: 2 }),
});

await manager.connect();
