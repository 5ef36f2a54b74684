"""Sample videos for prompts with the cascade; `python sample.py --help` has more examples, and every flag.

  python sample.py --config configs/demo.py --prompt "a red circle moves right"

The work is in `show1_jax.commands.sample`.
"""

from show1_jax.commands import console

if __name__ == "__main__":
    console.sample()
