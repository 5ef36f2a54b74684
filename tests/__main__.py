"""`python -m tests`: formatting, lint, types and tests; what CI runs, too."""

import subprocess
import sys
from pathlib import Path
from typing import Any

FIRST = (("ruff", "format", "--check", "."), ("ruff", "check", "."))
TYPES = ("mypy",)
TESTS = ("pytest", "-n", "auto", "--dist", "loadfile", "--no-loadscope-reorder")  # in the order that conftest.py gives
ROOT = Path(__file__).parent.parent


def main() -> int:
    """Run every command, even after one failed; returns 1 if any did.

    Types are checked while the tests run, some of which wait for other processes; the result is printed after them.
    """
    results = [(command, _start(command).wait()) for command in FIRST]
    with _start(TYPES, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as types:
        tests = _start(TESTS).wait()
        output, _ = types.communicate()
        print(output, end="", flush=True)
    failed = [" ".join(command) for command, code in [*results, (TYPES, types.returncode), (TESTS, tests)] if code]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _start(command: tuple[str, ...], **options: Any) -> "subprocess.Popen[str]":
    print(">", *command, flush=True)
    return subprocess.Popen([sys.executable, "-m", *command], cwd=ROOT, **options)


if __name__ == "__main__":
    sys.exit(main())
