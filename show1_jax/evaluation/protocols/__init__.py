"""Protocols of the paper's tables: the prompts to sample for a dataset, and the scores of their videos.

A protocol is a module with a frozen dataclass: its fields are the settings, `plan` reads a local copy of the dataset.
The metrics themselves are in `show1_jax.evaluation.metrics`; sampling is the work of `sample.py`.
"""
