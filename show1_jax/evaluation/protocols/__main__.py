"""The command of the protocols; see `show1_jax.evaluation.protocols.command`."""

import sys

from show1_jax.terminal import end_at_once, exit_process

if __name__ == "__main__":
    end_at_once("protocols")  # Ctrl-C while the modules below are imported

from show1_jax.evaluation.protocols.command import main

if __name__ == "__main__":
    exit_process(main(sys.argv[1:]))
