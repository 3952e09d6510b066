"""`inarch bench elastic`: a population that follows its cluster from 2 networks to 6, and to 3."""
