"""Evaluation of a classifier: metrics, intervals over subjects, figures and the report of a run."""
