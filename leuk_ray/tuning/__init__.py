"""Sweeps: a searcher proposes runs, a scheduler ends poor ones early, the best are bundled."""
