"""livecr: a live-process checkpointer for x86-64 Linux."""
