"""The benchmark of a coordinator: of its calls, and of its state with thousands of members."""
