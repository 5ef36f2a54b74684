"""Measure whether the demo's videos show what their prompts say: the command of `demo_world`."""

import sys

from show1_jax.evaluation.demo_world.alignment import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
