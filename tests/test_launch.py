"""The launch files: they parse, their flags exist, and a stopped job saves and starts again."""

import math
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml  # ml_collections brings it

from show1_jax.commands import train
from show1_jax.errors import BAD_INPUT, PROCESS_LOST
from tests.helpers.processes import environment, free_address

ROOT = Path(__file__).parent.parent
LAUNCH = ROOT / "launch"
SCRIPTS = ["tpu_pod.sh", "slurm.sbatch", "ssh_hosts.sh"]
COMMAND = ["--config", "configs/full.py", "--stage", "keyframes", "--workdir", "/shared/a run", "--distributed"]

JOBSET_FIELDS: dict[str, Any] = {
    "apiVersion": str,
    "kind": str,
    "metadata": {"name": str, "annotations": {"alpha.jobset.sigs.k8s.io/exclusive-topology": str}},
    "spec": {
        "failurePolicy": {
            "maxRestarts": int,
            "rules": {"name": str, "action": str, "onJobFailureReasons": list},
        },
        "replicatedJobs": {
            "name": str,
            "replicas": int,
            "template": {
                "spec": {
                    "completionMode": str,
                    "completions": int,
                    "parallelism": int,
                    "backoffLimit": int,
                    "podFailurePolicy": {
                        "rules": {"action": str, "onExitCodes": {"containerName": str, "operator": str, "values": list}}
                    },
                    "template": {"spec": dict},
                }
            },
        },
    },
}
"""Fields of JobSet v1alpha2 that are in use. The whole file was checked by hand with the schema of its definition."""


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


def test_scripts_are_clean_bash() -> None:
    shellcheck = Path(sys.executable).with_name("shellcheck")
    paths = [LAUNCH / script for script in SCRIPTS]
    done = subprocess.run([shellcheck, *paths], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert all(os.access(path, os.X_OK) for path in paths)


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


@pytest.mark.parametrize(("status", "queues_again"), [(0, False), (1, False), (2, False), (143, True), (75, True)])
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


@pytest.mark.parametrize(
    ("script", "needed"), [("tpu_pod.sh", "TPU_NAME"), ("slurm.sbatch", "WORKDIR"), ("ssh_hosts.sh", "HOSTS")]
)
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


def test_jobset_pods_start_again_together() -> None:
    jobset = yaml.safe_load((LAUNCH / "jobset.yaml").read_text())
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    check_fields(jobset, JOBSET_FIELDS)
    spec = jobset["spec"]
    assert spec["failurePolicy"]["maxRestarts"] >= 100
    (replicated,) = spec["replicatedJobs"]
    job = replicated["template"]["spec"]
    assert job["completionMode"] == "Indexed"
    assert job["completions"] == job["parallelism"]
    assert job["backoffLimit"] == 0, "a pod alone could not join the others again"
    pod = job["template"]["spec"]
    assert pod["restartPolicy"] == "Never", "podFailurePolicy needs it"
    (container,) = pod["containers"]
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"] == {"containerName": container["name"], "operator": "In", "values": [BAD_INPUT]}
    assert pod["terminationGracePeriodSeconds"] >= 60
    assert container["command"] == ["python", "train.py"]
    check_arguments(container["args"])
    assert "--distributed" in container["args"], "JAX finds the other hosts and slices"
    assert not [argument for argument in container["args"] if argument.startswith("--coordinator_address")]
    chips = container["resources"]["limits"]["google.com/tpu"]
    sides = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")
    assert chips * job["completions"] == math.prod(map(int, sides))
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}


def check_fields(value: Any, fields: dict[str, Any]) -> None:
    """Check that a part of a YAML file has no other fields than those that are known: the server ignores others."""
    for part in value if isinstance(value, list) else [value]:
        assert set(part) <= set(fields), set(part) - set(fields)
        for name, inner in fields.items():
            if isinstance(inner, dict) and name in part:
                check_fields(part[name], inner)


@pytest.fixture
def ssh(programs: Path) -> Path:
    """Replace `ssh` by a program that runs the command on this machine."""
    (programs / "ssh").write_text('#!/bin/bash\nexec sh -c "$2"\n')
    (programs / "ssh").chmod(0o755)
    return programs


@pytest.mark.parametrize("is_file", [False, True])
def test_every_host_runs_the_command_with_its_number(is_file: bool, ssh: Path, tmp_path: Path) -> None:
    (ssh / "python").write_text(f'#!/bin/bash\nprintf "%s\\n" "$@" > "$(mktemp "{tmp_path}/XXXXXX.called")"\n')
    hosts = "me@first  second\n"
    if is_file:
        (tmp_path / "hosts").write_text("# of the rack\nme@first # coordinates\n\nsecond\n")
        hosts = str(tmp_path / "hosts")
    settings = {"HOSTS": hosts, "WORKDIR": "/shared/a run", "CHECKOUT": str(tmp_path), "TMPDIR": str(tmp_path)}
    done = run("ssh_hosts.sh", ssh, "--config.train.seed=3", LOGS=str(tmp_path / "logs"), **settings)
    assert (done.returncode, done.stderr) == (0, "")
    command = ["train.py", *COMMAND[:-1], "--coordinator_address", "first:8476", "--num_processes", "2"]
    ran = sorted(path.read_text().splitlines() for path in tmp_path.glob("*.called"))
    assert ran == [[*command, "--process_id", str(number), "--config.train.seed=3"] for number in range(2)]
    check_arguments(ran[0])
    assert {path.name for path in (tmp_path / "logs").iterdir()} == {"me@first.log", "second.log"}


@pytest.mark.parametrize(("status", "runs"), [(0, 1), (2, 1), (1, 1), (75, 3), (143, 3), (255, 3)])
def test_lost_and_stopped_hosts_start_again(status: int, runs: int, ssh: Path, tmp_path: Path) -> None:
    (ssh / "python").write_text(f'#!/bin/bash\necho >> "{tmp_path}/runs"\nexit "$STATUS"\n')
    settings = {"HOSTS": "one", "WORKDIR": "/shared/run", "CHECKOUT": str(tmp_path), "TMPDIR": str(tmp_path)}
    settings |= {"LOGS": str(tmp_path / "logs"), "STATUS": str(status), "RESTARTS": "2", "RESTART_SECONDS": "0"}
    assert run("ssh_hosts.sh", ssh, **settings).returncode == status
    assert (tmp_path / "runs").read_text() == "\n" * runs


def test_stopping_the_script_waits_until_every_host_has_saved(ssh: Path, tmp_path: Path) -> None:
    """The first host saves for longer than the others."""
    (ssh / "python").write_text(f"""#!/bin/bash
while [[ $1 != --process_id ]]; do shift; done
trap '((number)) || sleep 1; touch "{tmp_path}/saved.$number"; exit 143' TERM
number=$2
touch "{tmp_path}/started.$number"
while :; do sleep 0.05; done
""")
    variables = {"PATH": f"{ssh}:{os.environ['PATH']}", "HOSTS": "one two three", "WORKDIR": "/shared/run"}
    variables |= {"CHECKOUT": str(tmp_path), "TMPDIR": str(tmp_path), "LOGS": str(tmp_path / "logs"), "RESTARTS": "5"}
    script = subprocess.Popen(["bash", LAUNCH / "ssh_hosts.sh"], env=variables, stderr=subprocess.PIPE, text=True)
    while len(list(tmp_path.glob("started.*"))) < 3:
        assert script.poll() is None
        time.sleep(0.02)
    script.send_signal(signal.SIGTERM)
    _, errors = script.communicate(timeout=300)
    assert {path.name for path in tmp_path.glob("saved.*")} == {"saved.0", "saved.1", "saved.2"}
    assert script.returncode == 128 + signal.SIGTERM
    assert errors.splitlines() == ["stopping all hosts; they save first"] + [
        f"{host}: exit code {128 + signal.SIGTERM}" for host in ("one", "two", "three")
    ]


def test_hosts_lose_one_resume_and_stop_together(ssh: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    hosts, lost_host, stopped_host = ["127.0.0.1", "host1"], 1, 1  # by hand also four hosts, 2, 3
    stage, timeout = "autoencoder", 10  # a busy machine may be silent for some seconds
    arguments = [f"--checkpoint={tiny_checkpoint}", f"--config.train.{stage}.num_steps=100000"]
    arguments += ["--config.train.save_every=1", f"--heartbeat_timeout={timeout}"]
    arguments += ["--config.architecture.vae.block_out_channels=(32,)"]  # compiles in half the time
    arguments += [f"--config.compilation_cache={tmp_path / 'compiled'}"]
    variables = environment(1) | {
        "PATH": f"{ssh}:{os.environ['PATH']}",
        "HOSTS": " ".join(hosts),
        "PORT": free_address().rpartition(":")[2],
        "WORKDIR": str(tmp_path / "run"),
        "CONFIG": "tests/helpers/tiny_config.py",
        "STAGE": stage,
        "CHECKOUT": str(ROOT),
        "PYTHON": sys.executable,
        "LOGS": str(tmp_path / "logs"),
        "TMPDIR": str(tmp_path),
        "RESTARTS": "1",
        "RESTART_SECONDS": "0",
    }
    steps = tmp_path / "run" / "checkpoints"
    script = subprocess.Popen(
        ["bash", LAUNCH / "ssh_hosts.sh", *arguments], env=variables, stderr=subprocess.PIPE, text=True
    )
    try:
        lost = running_process(lost_host, tmp_path)
        first = wait_for_step(steps, 1, script)
        os.kill(lost, signal.SIGKILL)
        while running_process(lost_host, tmp_path) == lost:
            time.sleep(0.1)
        kept = max(int(path.name) for path in steps.glob("0*"))
        wait_for_step(steps, kept + 1, script)
        os.kill(running_process(stopped_host, tmp_path), signal.SIGTERM)
        _, errors = script.communicate(timeout=300)
    finally:
        if script.poll() is None:
            script.terminate()
            script.wait()
    saved = max(int(path.name) for path in steps.glob("0*"))
    assert script.returncode == 128 + signal.SIGTERM, errors
    assert first <= kept < saved
    assert not list(steps.glob(".*")), "a step is half written"
    codes = re.findall(r"^(\S+): exit code (\d+)$", errors, re.M)
    killed = 128 + signal.SIGKILL
    assert codes == [
        *((host, str(killed if host == hosts[lost_host] else PROCESS_LOST)) for host in hosts),
        *((host, str(128 + signal.SIGTERM)) for host in hosts),
    ]
    line = f"is lost: silent for {timeout} s; run the same command again to resume"
    for host in hosts:
        log = [text for text in (tmp_path / "logs" / f"{host}.log").read_text().splitlines() if "[Gloo]" not in text]
        assert [text for text in log if line in text] == [text for text in log if "lost" in text]
        assert sum(line in text for text in log) == (host != hosts[lost_host])
        assert not any("Traceback" in text for text in log)
        if host == hosts[0]:
            assert f"SIGTERM: saved {saved} steps; the same command resumes from there" in log
        else:
            assert [text for text in log if line not in text] == []


def running_process(index: int, folder: Path) -> int:
    """Wait until the process of a host is there, and return its id."""
    for _ in range(3000):
        for file in folder.glob(f"show1-*-{index}.pid"):
            if text := file.read_text().strip():
                return int(text)
        time.sleep(0.02)
    raise AssertionError(f"host {index} starts no process")


def wait_for_step(steps: Path, step: int, process: "subprocess.Popen[str]") -> int:
    """Wait until a step or a later one is saved, and return its number."""
    while process.poll() is None:
        if found := [int(path.name) for path in steps.glob("0*") if int(path.name) >= step]:
            return max(found)
        time.sleep(0.02)
    raise AssertionError(process.communicate()[1])


def test_readme_names_every_file_and_its_flags_exist() -> None:
    text = (LAUNCH / "README.md").read_text()
    assert {path.name for path in LAUNCH.iterdir()} - {"README.md"} == set(re.findall(r"^\| `([^`]+)`", text, re.M))
    text = re.sub(r"mpirun.*?train\.py", "", text, flags=re.DOTALL)  # the flags of `mpirun` are its own
    commands = re.findall(r"python train\.py ([^`\n]+)", text)
    assert len(commands) == 2
    for command in commands:
        check_arguments(shlex.split(command))
    check_arguments(re.findall(r"--\w+", text))
