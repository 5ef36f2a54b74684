"""Conversion of released PyTorch folders to one Orbax checkpoint: `python -m convert --help`. Needs no torch."""
