"""The command of the protocols; see `show1_jax.evaluation.protocols.command`."""

import sys

from show1_jax.terminal import end_at_once, exit_process

if __name__ == "__main__":
    end_at_once("protocols")  # Ctrl-C while the modules below are imported

from show1_jax.cli import importing_jax, run_command


def _run() -> None:
    with importing_jax("protocols"):
        from show1_jax.evaluation.protocols.command import run

    run(sys.argv[1:])


if __name__ == "__main__":
    exit_process(run_command("protocols", _run))
