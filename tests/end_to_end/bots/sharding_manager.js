/** The example's bot.js, in a process of its own for each shard. */

import { fileURLToPath } from 'node:url';

import { ShardingManager } from 'discord.js';

const bot = fileURLToPath(new URL('bot.js', import.meta.url));
const manager = new ShardingManager(bot, { totalShards: Number(process.env.SHARD_COUNT) });

await manager.spawn({ delay: 100, timeout: -1 });
