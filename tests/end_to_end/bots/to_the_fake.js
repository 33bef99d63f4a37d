/** Preloaded with --import: has bots talk to the fake Discord, and is no part of them. */

import { createRequire } from 'node:module';

import * as imported from '@discordjs/rest';

const required = createRequire(import.meta.url)('@discordjs/rest');

for (const { DefaultRestOptions } of [imported, required]) {
  DefaultRestOptions.api = process.env.DISCORD_API;
}

// A process of a ShardingManager that is killed would outlive it.
process.on('disconnect', () => process.exit());
