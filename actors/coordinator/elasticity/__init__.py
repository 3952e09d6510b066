"""How the population follows its cluster: nodes that appear, and nodes that leave."""
