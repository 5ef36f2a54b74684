"""Checkpoints on the disk: weights (Orbax), the manifest, several checkpoints as one, and the steps of training runs.

`networks` loads a network or describes it by shapes; `random` writes a checkpoint with random weights. Released PyTorch
files are read by `convert`, which is no part of the package.
"""
