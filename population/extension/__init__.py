"""How code of the user joins: names become objects, and errors in that code are reported."""
