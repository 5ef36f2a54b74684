"""Metrics of videos: statistics of features that merge, and scores from them. A new metric is a module and a row.

Nothing here reads files or runs networks: features come from `show1_jax.evaluation.extraction`.
"""
