"""The report of a run: one page of HTML with curves, exchanges and faults, which needs no server and no network."""
