"""Clips to train on, in an order that depends on the seed alone, and the commands `python -m show1_jax.data COMMAND`.

`clips` gives batches of built videos or of the synthetic world, `text_cache` the text states of captions. Making a
dataset is in `building`, the synthetic world in `synthetic`, containers and images in `media`.
"""
