"""Filter grafting: the information of layers and filters, alpha, and the blending of scions."""
