"""The core: decides which shard may identify when. No HTTP, no disk, no Discord."""
