"""Filter grafting: information of layers and filters, alpha, and how a scion is blended in."""
