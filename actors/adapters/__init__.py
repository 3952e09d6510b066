"""Callbacks that let the trainers of other libraries join a population, one file for each library."""
