"""The progress bar of a training run."""

from show1_jax.progress import Bar, say


class TrainingBar:
    """A bar on stderr: steps and frames per second, time left, loss, and share of time spent waiting for data.

    It shows that the program is compiling until the first step is done. Speeds and times exclude that step.
    """

    def __init__(self, total: int, start: int = 0, *, frames_per_step: int, shown: bool = True):
        """Show the bar.

        Args:
            total: last step of the run.
            start: number of steps done before.
            frames_per_step: frames of video in a batch.
            shown: if False, nothing is printed, as in all processes but the first.
        """
        rates = {"steps/s": 1, "frames/s": frames_per_step}
        self._bar = Bar("training", total, done=start, waiting="compiling [{elapsed}]", rates=rates, shown=shown)
        self._shown = shown

    def step_started(self) -> None:
        """Count one more step, which is compiled and started."""
        self._bar.update()

    def update(self, *, loss: float, data_wait_share: float) -> None:
        """Set the figures to show.

        Args:
            loss: mean loss of the last steps.
            data_wait_share: share of their time spent waiting for data, from 0 to 1.
        """
        self._bar.note(f"loss {loss:.4g}, {data_wait_share:.0%} waiting for data")

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        if self._shown:
            say(line)

    def close(self) -> None:
        """Close the bar; its last state stays on the screen."""
        self._bar.close()
