"""Clips to train on: videos and captions into a dataset (`python -m show1_jax.data build`), and batches out of it.

`clips` is what training reads: `training_clips` and `validation_clips`, of built videos or of the synthetic world.
"""
