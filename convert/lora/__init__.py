"""Low-rank adapters as files of PyTorch libraries: diffusers and peft in both directions, kohya's on the way in."""
