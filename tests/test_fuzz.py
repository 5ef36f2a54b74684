"""A few of the inputs that `python -m tests.fuzz` has by the thousand."""

from tests.fuzz import fuzz, summary
from tests.helpers.fuzz_kinds import KINDS


def test_damaged_and_hostile_files_are_read_or_refused_in_one_line() -> None:
    outcomes = fuzz(tuple(KINDS), num_inputs=200, seed=0)
    findings = [outcome for outcome in outcomes if outcome.is_finding]
    assert len(outcomes) == 200
    assert not findings, "\n".join([*map(str, findings), summary(outcomes)])
