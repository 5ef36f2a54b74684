"""The launch files: they parse, their flags exist, and a stopped job saves and starts again."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml  # ml_collections brings it

from show1_jax.commands import train

ROOT = Path(__file__).parent.parent
LAUNCH = ROOT / "launch"
SCRIPTS = ["tpu_pod.sh", "slurm.sbatch"]
COMMAND = ["--config", "configs/full.py", "--stage", "keyframes", "--workdir", "/shared/a run", "--distributed"]


def check_arguments(arguments: list[str]) -> None:
    """Check that `train.py` has the flags of these arguments."""
    known = set(train.define_flags())
    names = [argument[2:].split("=")[0].split(".")[0] for argument in arguments if argument.startswith("--")]
    assert names, arguments
    assert set(names) <= known


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """Create replacements of the cluster's programs that record their arguments and exit with $STATUS."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("gcloud", "srun", "scontrol", "python"):
        path = folder / name
        path.write_text(f'#!/bin/bash\nprintf "%s\\n" "$@" > "{folder}/{name}.called"\nexit "${{STATUS:-0}}"\n')
        path.chmod(0o755)
    return folder


def run(script: str, programs: Path, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    environment = {"PATH": f"{programs}:{os.environ['PATH']}", **variables}
    return subprocess.run(
        ["bash", str(LAUNCH / script), *arguments], env=environment, capture_output=True, text=True, check=False
    )


def called(programs: Path, name: str) -> list[str] | None:
    path = programs / f"{name}.called"
    return path.read_text().splitlines() if path.exists() else None


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_are_bash(script: str) -> None:
    done = subprocess.run(["bash", "-n", str(LAUNCH / script)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert os.access(LAUNCH / script, os.X_OK)


def test_tpu_hosts_all_run_the_command(programs: Path, tmp_path: Path) -> None:
    settings = {"TPU_NAME": "my-slice", "ZONE": "here", "WORKDIR": "/shared/a run", "CHECKOUT": str(tmp_path)}
    assert run("tpu_pod.sh", programs, "--config.train.seed=3", **settings).returncode == 0
    arguments = called(programs, "gcloud")
    assert arguments is not None
    assert {"my-slice", "--zone=here", "--worker=all"} <= set(arguments)
    (remote,) = (argument.removeprefix("--command=") for argument in arguments if argument.startswith("--command="))
    subprocess.run(["sh", "-c", remote], env={"PATH": f"{programs}:{os.environ['PATH']}"}, check=True)
    ran = called(programs, "python")
    assert ran == ["train.py", *COMMAND, "--config.train.seed=3"]
    check_arguments(ran)


def test_slurm_runs_the_command(programs: Path) -> None:
    assert run("slurm.sbatch", programs, "--config.train.seed=3", WORKDIR="/shared/a run").returncode == 0
    arguments = called(programs, "srun")
    assert arguments is not None
    start = arguments.index("python")
    assert arguments[start:] == ["python", "train.py", *COMMAND, "--config.train.seed=3"]
    check_arguments(arguments[start:])
    assert called(programs, "scontrol") is None


@pytest.mark.parametrize(("status", "queues_again"), [(0, False), (1, False), (2, False), (143, True)])
def test_slurm_queues_a_stopped_job_again(programs: Path, status: int, queues_again: bool) -> None:
    (programs / "scontrol").write_text(f'#!/bin/bash\nprintf "%s\\n" "$@" > "{programs}/scontrol.called"\n')
    done = run("slurm.sbatch", programs, WORKDIR="/shared/run", SLURM_JOB_ID="17", STATUS=str(status))
    assert done.returncode == status
    assert called(programs, "scontrol") == (["requeue", "17"] if queues_again else None)


def test_slurm_signals_the_processes_before_the_kill() -> None:
    lines = (LAUNCH / "slurm.sbatch").read_text().splitlines()
    options = [shlex.split(line, comments=True)[0] for line in re.findall(r"^#SBATCH (.*)", "\n".join(lines), re.M)]
    values = dict(option.partition("=")[::2] for option in options)
    signal, seconds = values["--signal"].split("@")
    assert signal == "TERM", "with B: in front it would go to the shell alone"
    assert int(seconds) >= 60
    assert "--requeue" in values
    assert values["--ntasks-per-node"] == values["--gpus-per-node"]
    first_command = next(number for number, line in enumerate(lines) if line and not line.startswith("#"))
    assert not any(line.startswith("#SBATCH") for line in lines[first_command:]), "SLURM stops reading there"


@pytest.mark.parametrize(("script", "needed"), [("tpu_pod.sh", "TPU_NAME"), ("slurm.sbatch", "WORKDIR")])
def test_scripts_name_a_missing_variable(programs: Path, script: str, needed: str) -> None:
    done = run(script, programs)
    assert done.returncode != 0
    assert needed in done.stderr
    assert not list(programs.glob("*.called"))


def test_kubernetes_pods_find_each_other() -> None:
    service, job = yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text())
    assert (service["kind"], job["kind"]) == ("Service", "Job")
    name, spec = job["metadata"]["name"], job["spec"]
    pod = spec["template"]["spec"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == {"job-name": name}
    assert pod["subdomain"] == service["metadata"]["name"]
    (container,) = pod["containers"]
    assert container["command"] == ["python", "train.py"]
    check_arguments(container["args"])
    flags = dict(argument.removeprefix("--").partition("=")[::2] for argument in container["args"])
    port = container["ports"][0]["containerPort"]
    assert flags["coordinator_address"] == f"{name}-0.{pod['subdomain']}:{port}"
    assert flags["num_processes"] == str(spec["completions"]) == str(spec["parallelism"])
    assert flags["process_id"] == "$(JOB_COMPLETION_INDEX)"
    assert spec["completionMode"] == "Indexed"


def test_kubernetes_saves_before_a_pod_is_killed_and_starts_it_again() -> None:
    _, job = yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text())
    pod = job["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] >= 60
    assert pod["restartPolicy"] == "OnFailure"
    assert job["spec"]["backoffLimit"] >= 100
    mounted = {mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_readme_names_every_file_and_its_flags_exist() -> None:
    text = (LAUNCH / "README.md").read_text()
    assert {path.name for path in LAUNCH.iterdir()} - {"README.md"} == set(re.findall(r"^\| `([^`]+)`", text, re.M))
    commands = re.findall(r"python train\.py ([^`\n]+)", text)
    assert len(commands) == 2
    for command in commands:
        check_arguments(shlex.split(command))
    check_arguments(re.findall(r"--\w+", text))
