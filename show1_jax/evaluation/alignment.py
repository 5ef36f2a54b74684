"""The command of `demo_world`: measure whether the demo's videos agree with their prompts."""

import sys

from show1_jax.cli import require_jax

if __name__ == "__main__":
    require_jax("alignment")
    from show1_jax.evaluation.demo_world.alignment import main

    sys.exit(main(sys.argv[1:]))
