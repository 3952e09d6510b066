"""Tasks: what networks learn, and how they are evaluated."""
