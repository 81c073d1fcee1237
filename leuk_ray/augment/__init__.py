"""Augmentation on the training device: policies by name, parameters by key."""
