"""Train one network, without Ray: the trainer, its schedule and progress, and the runtime that it needs."""
