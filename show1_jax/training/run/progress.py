"""The progress of a training run, as one bar."""

from show1_jax.progress import Bar, say


class TrainingBar:
    """A bar on stderr with steps and frames a second, time left, the loss, and the share of time waiting for data.

    Until the first step is through, it says that it compiles; speeds and times are of the steps after it.
    """

    def __init__(self, total: int, start: int = 0, *, frames_per_step: int, shown: bool = True):
        """Show the bar.

        Args:
            total: the run's last step.
            start: steps that are done already.
            frames_per_step: frames of video in a batch.
            shown: false in all processes but the first.
        """
        rates = {"steps/s": 1, "frames/s": frames_per_step}
        self._bar = Bar("training", total, done=start, waiting="compiling [{elapsed}]", rates=rates, shown=shown)
        self._shown = shown

    def step_started(self) -> None:
        """Count one more step, which is compiled and on its way."""
        self._bar.update()

    def update(self, *, loss: float, data_wait_share: float) -> None:
        """Show new figures from now on.

        Args:
            loss: mean of the last steps.
            data_wait_share: share of their time that went into waiting for data, from 0 to 1.
        """
        self._bar.note(f"loss {loss:.4g}, {data_wait_share:.0%} waiting for data")

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        if self._shown:
            say(line)

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()
