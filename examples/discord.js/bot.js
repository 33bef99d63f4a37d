/**
 * A bot with discord.js. Its shards come from the environment, as set by a ShardingManager
 * (SHARDS=[0,1] SHARD_COUNT=4), or from options of the Client (for example, shards: 'auto').
 */

import { Client, Events, GatewayIntentBits } from 'discord.js';

import { queueThrottler } from './gateway-queue.js';

const client = new Client({
  intents: [GatewayIntentBits.Guilds],
  ws: {
    buildIdentifyThrottler: queueThrottler({
      url: process.env.GATEWAY_QUEUE_URL ?? 'http://127.0.0.1:8000',
      apiKey: process.env.GATEWAY_QUEUE_API_KEY,
    }),
  },
});

client.on(Events.ShardReady, (shardId) => console.log(`shard ${shardId} is ready`));

await client.login(process.env.DISCORD_TOKEN);
