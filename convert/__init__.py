"""Conversion of released PyTorch folders to one Orbax checkpoint, and of LoRA files to adapters, and back. No torch.

The command is `python -m convert --help`.
"""
