"""Extension by user code: import objects by name, and report errors in user code."""
