"""`python -m tests`: formatting, lint, types and tests, one after the other; what CI runs, too."""

import subprocess
import sys
from pathlib import Path

COMMANDS = (
    ("ruff", "format", "--check", "."),
    ("ruff", "check", "."),
    ("mypy",),
    ("pytest", "-n", "auto", "--dist", "loadfile", "--no-loadscope-reorder"),  # in the order that conftest.py gives
)


def main() -> int:
    """Run every command, even after one failed; returns 1 if any did."""
    failed = []
    for command in COMMANDS:
        print(">", *command, flush=True)
        if subprocess.run([sys.executable, "-m", *command], cwd=Path(__file__).parent.parent).returncode:
            failed.append(" ".join(command))
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
