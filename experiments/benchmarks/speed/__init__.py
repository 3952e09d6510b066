"""How fast networks train: beside plain loops, with grafts, and beside a straggler."""
