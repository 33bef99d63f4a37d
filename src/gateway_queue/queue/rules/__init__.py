"""The queue's rules as pure code: ``now`` comes in, values go out. No clock, no tasks, no I/O."""
