"""Flags that both commands which score videos have, with the same limits."""

from collections.abc import Callable

import pytest

from show1_jax.evaluation.__main__ import main as evaluate
from show1_jax.evaluation.protocols.command import main as score_protocol

EVALUATION = ["flicker", "--videos", "V"]
PROTOCOL = ["ucf101", "score", "--samples", "S", "--data", "D", "--weights", "W"]


@pytest.mark.parametrize(("main", "arguments"), [(evaluate, EVALUATION), (score_protocol, PROTOCOL)])
@pytest.mark.parametrize(
    ("flag", "line"),
    [
        ("--batch_size=0", "argument --batch_size: 0 must be at least 1"),
        ("--batch_size=100001", "argument --batch_size: 100001 must be at most 100000"),
        ("--num_workers=4097", "argument --num_workers: 4097 must be at most 4096"),
    ],
)
def test_both_commands_have_the_same_limits(
    main: Callable[[list[str]], int],
    arguments: list[str],
    flag: str,
    line: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*arguments, flag]) == 2
    assert line in capsys.readouterr().err
