"""Runs: one from a recipe to a evaluated bundle, many side by side, and the table of all."""
