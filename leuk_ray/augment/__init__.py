"""Augmentation on the training device: policies by name, counter-based parameters."""
