"""Config files by name and by path: the files that they import, and the refusals."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from show1_jax.config import running
from show1_jax.config.running import run_config_file, shipped_configs
from show1_jax.errors import UserError

FOLDER = Path(__file__).parents[2] / "configs"
NAMES = ["customise", "demo", "fast", "full", "latent_keyframes", "stylise"]


def test_a_name_is_a_file_that_comes_with_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert list(shipped_configs()) == NAMES
    for name in NAMES:
        assert run_config_file(name) == run_config_file(str(FOLDER / f"{name}.py"))
    assert run_config_file("customise:full").checkpoint == "checkpoints/show1"


def test_an_installed_package_has_them_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = tmp_path / "show1_jax/configs"
    inside.mkdir(parents=True)
    (inside / "own.py").write_text((FOLDER / "full.py").read_text())
    (inside / "__init__.py").touch()
    monkeypatch.setattr(running, "_PACKAGE", tmp_path / "show1_jax")
    assert run_config_file("own").checkpoint == "checkpoints/show1"
    with pytest.raises(UserError, match="did you mean own"):
        run_config_file("full")


def test_a_file_without_a_suffix_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("mine", "full"):
        (tmp_path / name).write_text("from . import demo\nget_config = demo.get_config")
    assert run_config_file("mine") == run_config_file("demo")
    assert run_config_file("full") != run_config_file("./full")  # a name comes first


def test_files_of_the_folder_come_before_those_of_the_package(tmp_path: Path) -> None:
    copy = tmp_path / "a copy.v2.py"
    copy.write_text((FOLDER / "fast.py").read_text())
    assert run_config_file(str(copy)) == run_config_file("fast")
    other = tmp_path / "other/fast.py"
    other.parent.mkdir()
    other.write_text(copy.read_text())
    (other.parent / "full.py").write_text(f"{(FOLDER / 'full.py').read_text()}\n_C = get_config\n")
    with (other.parent / "full.py").open("a") as file:
        file.write("def get_config():\n    config = _C()\n    config.seed = 77\n    return config\n")
    assert run_config_file(str(other)).seed == 77


def test_a_file_of_a_checkout_may_be_imported_by_its_full_name(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("from configs import full\nget_config = full.get_config")
    assert run_config_file(str(path)) == run_config_file("full")


def test_a_file_is_run_as_it_is_now(tmp_path: Path) -> None:
    path = tmp_path / "config.py"
    head = "import dataclasses\nfrom ml_collections import ConfigDict\n"
    record = "@dataclasses.dataclass\nclass Seed:\n    value: 'int'\n"
    for seed in (1, 2):
        path.write_text(f"{head}{record}def get_config(): return ConfigDict({{'seed': Seed({seed}).value}})")
        assert run_config_file(str(path)).seed == seed
    assert [entry.name for entry in tmp_path.iterdir()] == ["config.py"]


def test_any_name_of_a_file_may_be_imported(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("from . import running\nget_config = running.get_config")
    (tmp_path / "running.py").write_text("from . import demo\nget_config = demo.get_config")
    assert run_config_file(str(tmp_path / "mine.py")) == run_config_file("demo")


def test_a_file_without_its_function_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.py").touch()
    with pytest.raises(UserError, match=r"empty\.py does not run \(it has no function get_config\(\)\); correct it"):
        run_config_file(str(tmp_path / "empty.py"))


@pytest.mark.parametrize("name", ["ful", "Full", "full.py", "configs/none.py"])
def test_names_are_listed_where_none_fits(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"no config {name};.*names customise, demo|no config {name}; did you mean"):
        run_config_file(name)


@given(name=st.text(max_size=60))
def test_any_text_is_a_config_or_refused_in_one_line(name: str) -> None:
    if name.split(":")[0] in NAMES:
        return
    with pytest.raises(UserError) as refused:
        run_config_file(name)
    assert "\n" not in str(refused.value)
