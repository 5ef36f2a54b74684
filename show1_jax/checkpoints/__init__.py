"""Checkpoints on disk: weights (Orbax), the manifest, sets of checkpoints, and the saved steps of training runs.

`networks` loads a network or describes it by shapes; `random` writes a checkpoint with random weights. Released PyTorch
files are read by `convert`, which is not part of this package.
"""
