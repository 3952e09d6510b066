"""Training of one network, without Ray: trainer, schedule, progress and the runtime that it needs."""
