"""The benchmark of grafts between two actors, beside the published protocol and plain copies."""
