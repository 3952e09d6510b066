"""Processes beside a chaos run that answer requests."""
