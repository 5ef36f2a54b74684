"""The notebook is executed as a user would, with few steps, and is stored without outputs."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

import show1_jax
from show1_jax.config.sampling import STAGES
from tests.helpers.processes import environment

ROOT = Path(__file__).parent.parent
NOTEBOOK = ROOT / "docs" / "notebooks" / "first_video.ipynb"
FEW_STEPS = """
import warnings

warnings.filterwarnings("error", module=r"(__main__|show1_jax|jax|flax|numpy|orbax)\\b")  # not those of the kernel
settings = [
    "--config.keyframes.num_frames=2",
    "--config.keyframes.num_steps=3",
    "--config.interpolation.num_steps=2",
    "--config.first_frame.num_steps=2",
    "--config.superres_pixel.num_steps=2",
    "--config.superres_pixel.window=5",
    "--config.superres_pixel.stride=4",
    "--config.superres_latent.num_steps=4",
    "--config.superres_latent.height=40",
    "--config.superres_latent.width=72",
]
"""


def read() -> Any:
    return nbformat.read(NOTEBOOK, as_version=4)


def code_cells(notebook: Any) -> Iterator[Any]:
    return (cell for cell in notebook.cells if cell.cell_type == "code")


def outputs(cell: Any, kind: str) -> list[str]:
    return [output.data[kind] for output in cell.outputs if kind in output.get("data", {})]


def shown_by(notebook: Any, source: str) -> str:
    """Return the HTML that the cell with this source shows."""
    (cell,) = (cell for cell in code_cells(notebook) if source in cell.source)
    return "".join(outputs(cell, "text/html"))


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The notebook after it was run in its own folder, with few steps and a compiler that does not optimise."""
    notebook = read()
    (parameters,) = (cell for cell in code_cells(notebook) if "parameters" in cell.metadata.get("tags", ()))
    parameters.source += FEW_STEPS
    home = tmp_path_factory.mktemp("home")
    client = NotebookClient(
        notebook, timeout=1200, kernel_name="python3", resources={"metadata": {"path": str(NOTEBOOK.parent)}}
    )
    kernel = environment(1) | {
        "IPYTHONDIR": str(home),
        "JUPYTER_CONFIG_DIR": str(home),
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }
    try:
        client.execute(env=kernel)
    except CellExecutionError as error:
        pytest.fail(str(error))
    return notebook


def test_it_is_stored_without_outputs() -> None:
    notebook = read()
    nbformat.validate(notebook)
    assert all(not cell.outputs and cell.execution_count is None for cell in code_cells(notebook))
    assert "language_info" in notebook.metadata
    assert NOTEBOOK.stat().st_size < 20_000


def test_it_uses_public_names_only() -> None:
    sources = "\n".join(cell.source for cell in code_cells(read()))
    (line,) = re.findall(r"^ *(?:from|import) show1_jax.*$", sources, re.MULTILINE)
    names = line.removeprefix("from show1_jax import ").split(", ")
    assert set(names) <= set(show1_jax.__all__)


def test_every_stage_is_shown(executed: Any) -> None:
    shown = shown_by(executed, "videos = cascade.sample(")
    assert [stage for stage in STAGES if f"<b>{stage}</b>" in shown] == list(STAGES)
    assert len(re.findall("data:video/mp4;base64,", shown)) == len(STAGES)
    assert "5 frames of 72 x 40" in shown
    assert "<b>superres_latent</b>" in shown_by(executed, "second = cascade.sample(")
    assert "<b>keyframes</b>" in shown_by(executed, "with_config(own)")
    assert "<b>keyframes</b>" in shown_by(executed, "edited = cascade.sample(")


def test_the_contact_sheet_is_shown(executed: Any) -> None:
    (picture,) = (picture for cell in code_cells(executed) for picture in outputs(cell, "image/png"))
    assert len(picture) > 10_000


def test_it_prints_no_warnings_and_stays_small(executed: Any) -> None:
    streams = [output for cell in code_cells(executed) for output in cell.outputs if output.output_type == "stream"]
    assert [output.text for output in streams if output.name == "stderr"] == []
    (line,) = (output.text for output in streams)
    change = float(line.removeprefix("mean change of a pixel: "))
    assert 0 < change < 1
    assert len(nbformat.writes(executed)) < 2_000_000


def test_the_full_size_is_not_run_by_default(executed: Any) -> None:
    (cell,) = (cell for cell in code_cells(executed) if "full-size" in cell.metadata.get("tags", ()))
    assert cell.source.startswith("if run_full_size:")
    assert not cell.outputs
