"""Plots of the site, drawn from the data files in this folder, which repeat measured numbers of the documents.

  python docs/figures/draw.py

The pictures have no background, and colours that are readable on white and on black. A test draws them again.
"""

import csv
import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

FOLDER = Path(__file__).parent
INK = "#7a7d82"
"""Grey with a contrast of 4 both to white and to the site's dark background."""
BLUE, ORANGE, GREEN = "#3b82f6", "#d97706", "#16a34a"
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: small, searchable
    "svg.hashsalt": "show1_jax",  # names in the file do not change from run to run
    "figure.constrained_layout.use": True,
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    **dict.fromkeys(
        (
            "text.color",
            "axes.labelcolor",
            "axes.edgecolor",
            "axes.titlecolor",
            "grid.color",
            "xtick.color",
            "ytick.color",
        ),
        INK,
    ),
}


def data(name: str) -> dict[str, Any]:
    """Return the numbers of a plot."""
    values: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return values


def panels(count: int = 1, height: float = 3.2) -> tuple[Figure, list[Axes]]:
    """Return a figure with some panels side by side."""
    figure, axes = plt.subplots(1, count, figsize=(7.2, height), squeeze=False)
    return figure, list(axes[0])


def bars(axes: Axes, names: list[str], groups: dict[str, tuple[str, list[float | None]]]) -> None:
    """Draw horizontal groups of bars, the first name at the top, with a number at each bar.

    Args:
        axes: where to draw.
        names: name of each group.
        groups: colour and lengths of the bars by their label; None: not measured.
    """
    thickness = 0.8 / len(groups)
    for number, (label, (colour, lengths)) in enumerate(groups.items()):
        rows = [row + (number - (len(groups) - 1) / 2) * thickness for row in range(len(names))]
        drawn = [(row, length) for row, length in zip(rows, lengths, strict=True) if length is not None]
        where, long = [row for row, _ in drawn], [length for _, length in drawn]
        container = axes.barh(where, long, height=thickness * 0.9, color=colour, label=label)
        axes.bar_label(container, fmt="{:g}", padding=3, fontsize=9)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.margins(x=0.12)


def speed() -> Figure:
    """Draw the time of a step beside its floor and PyTorch's time."""
    values = data("speed")
    figure, (axes,) = panels(height=4.2)
    bars(
        axes,
        values["stages"],
        {
            "floor of the chip": (GREEN, values["floor_ms"]),
            "show1_jax": (BLUE, values["ours_ms"]),
            "PyTorch, eager (where measured)": (ORANGE, values["pytorch_ms"]),
        },
    )
    axes.set_xlabel("milliseconds of a step on an H200, bfloat16 (fewer are better)")
    axes.legend(loc="upper center", bbox_to_anchor=(0.3, 1.14), ncols=3)
    return figure


def operations() -> Figure:
    """Draw the operations of each stage."""
    values = data("operations")
    figure, (axes,) = panels(height=2.6)
    bars(axes, values["parts"], {"": (BLUE, values["pflop"])})
    axes.set_xlabel("PFLOP of a video, released settings (1 PFLOP is 1e15 operations)")
    return figure


def quality() -> Figure:
    """Draw the similarity to the reference against the share of operations."""
    figure, (axes,) = panels(height=4.0)
    below = (
        "guidance up to timestep 500",
        "latent stage: 25 of 50 steps",
        "15 steps there",
    )  # labels that would overlap others
    for name, share, decibels in data("quality")["recipes"]:
        color, size = (ORANGE, 60) if name == "configs/fast.py" else (BLUE, 36)
        axes.scatter(share, decibels, s=size, color=color, zorder=3)
        offset = (6, -12) if name in below else (6, 6)
        axes.annotate(name, (share, decibels), textcoords="offset points", xytext=offset, fontsize=9)
    axes.set_xlabel("share of the operations of the released settings, %")
    axes.set_ylabel("PSNR of the final videos, dB")
    axes.margins(y=0.12)
    axes.set_xlim(21, 42)
    axes.set_xticks(range(22, 42, 4))
    return figure


def strength() -> Figure:
    """Draw what an edit changes and keeps against its strength."""
    values = data("strength")
    figure, (axes,) = panels()
    for key, colour, marker, label in (
        ("new_colour", BLUE, "o", "has the prompt's colour"),
        ("motion", GREEN, "s", "has the prompt's motion"),
        ("path", ORANGE, "^", "keeps the video's path"),
    ):
        axes.plot(values["strength"], values[key], color=colour, marker=marker, label=label)
    axes.set_xlabel("--strength")
    axes.set_ylabel("share of 24 videos, %")
    axes.set_ylim(0, 105)
    axes.set_xticks(values["strength"])
    axes.legend(loc="lower left")
    return figure


def devices() -> Figure:
    """Draw the factors by which eight devices share a step of one video."""
    values = data("devices")
    figure, (axes,) = panels(height=3.6)
    bars(
        axes,
        values["stages"],
        {
            "operations": (BLUE, values["gflop_share"]),
            "working memory": (GREEN, values["memory_share"]),
        },
    )
    axes.set_xlim(0, 9)
    axes.set_xlabel("one device's amount divided by each of eight devices' (8 is ideal)")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.16), ncols=2)
    return figure


def losses() -> Figure:
    """Draw the training losses of two of the demo's networks."""
    curves: dict[str, list[tuple[int, float]]] = defaultdict(list)
    validation = {}
    with (FOLDER / "losses.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if row["loss"]:
                curves[row["run"]].append((int(row["step"]), float(row["loss"])))
            if row["validation_loss"]:
                validation[row["run"]] = (int(row["step"]), float(row["validation_loss"]))
    figure, both = panels(2)
    titles = {"keyframes_from_scratch": "keyframes, from scratch", "latent_last_run": "latent stage, last run"}
    for axes, (run, title) in zip(both, titles.items(), strict=True):
        axes.plot(*zip(*curves[run], strict=True), color=BLUE, linewidth=1.5, label="training, mean of 20 steps")
        if run in validation:
            axes.plot(*validation[run], "o", color=ORANGE, label="validation, averaged weights")
        axes.set_title(title, fontsize=11)
        axes.set_xlabel("step")
        axes.legend(fontsize=9)
    both[0].set_yscale("log")
    both[0].set_ylabel("squared error of the clean clip")
    both[1].set_ylabel("squared error of its latents")
    both[1].set_ylim(bottom=0)
    return figure


def fvd() -> Figure:
    """Draw the FVD of damaged clips."""
    values = data("fvd")
    figure, (axes,) = panels(height=2.8)
    bars(axes, values["clips"], {"": (BLUE, values["fvd"])})
    axes.set_xlabel("FVD to 96 other clips of the world (lower is more similar)")
    return figure


PLOTS: tuple[Callable[[], Figure], ...] = (speed, operations, quality, strength, devices, losses, fvd)


def draw(folder: Path) -> None:
    """Write every plot into a folder."""
    with plt.rc_context(STYLE):
        for plot in PLOTS:
            figure = plot()
            metadata = {"Date": None, "Creator": f"matplotlib {matplotlib.__version__}"}
            figure.savefig(folder / f"{plot.__name__}.svg", transparent=True, metadata=metadata)
            plt.close(figure)


if __name__ == "__main__":
    draw(FOLDER)
