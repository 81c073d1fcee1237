"""The papers as experiments: fixed lists of runs, their tables, and one report each."""
