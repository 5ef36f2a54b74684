"""Training clips in an order that depends on the seed alone, and the commands `python -m show1_jax.data COMMAND`.

`clips` yields batches of built videos or of the synthetic world, `text_cache` reads and writes the text states of
captions. `building` makes datasets, `synthetic` is the synthetic world; containers and images are in `media`.
"""
