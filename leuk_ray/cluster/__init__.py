"""Joining Ray, and jobs on a cluster."""
