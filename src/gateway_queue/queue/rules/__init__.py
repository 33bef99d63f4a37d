"""The arithmetic of the queue. ``now`` comes in, values go out: no clock, no task, no I/O."""
