"""Evaluation of one network and of a population: scores, ensembles, soups and similarity."""
