"""The coordinator actor: members, admission, lifecycle of the networks, metrics and events."""
