"""Locations, storage and folders."""
