"""Runs: one from a recipe to a judged bundle, many side by side, and the table of all."""
