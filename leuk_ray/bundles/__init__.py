"""A classifier as a folder, and the registry of such folders."""
