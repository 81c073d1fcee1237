"""A run, from a recipe to a judged bundle."""
