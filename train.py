"""Train a network of the cascade; `python train.py --help` has more examples, and every flag.

  python train.py --config configs/demo.py --stage keyframes --workdir runs/keyframes

The work is in `show1_jax.commands.train`.
"""

from show1_jax.commands import console

if __name__ == "__main__":
    console.train()
