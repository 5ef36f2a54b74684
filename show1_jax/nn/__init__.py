"""Networks as Flax NNX modules: the UNet, the autoencoder, the T5 and CLIP text encoders, and their architectures.

Parameters are shapes until they are filled. Noise schedules are unknown here, and so are checkpoints: `init` draws
weights to train from, `checkpoints.networks` loads them.
"""
