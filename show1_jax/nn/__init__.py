"""Networks as Flax NNX modules: the UNet, the autoencoder, the T5 and CLIP text encoders, and their architectures.

Parameters are shapes until they are filled: `init` draws initial weights, `checkpoints.networks` loads trained ones.
The modules of this package import neither noise schedules nor checkpoints.
"""
