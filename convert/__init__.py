"""Released PyTorch folders -> one Orbax checkpoint: `python -m convert --help`. Needs no torch."""
