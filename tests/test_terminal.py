"""Terminals: streams that cannot be written, and Ctrl-C at any time."""

import io
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import NoReturn

import pytest

from show1_jax.cli import run_command
from show1_jax.terminal import BACKGROUND, exit_process, tolerant_output
from tests.helpers.processes import free_address

ROOT = Path(__file__).parent.parent
EMOJI = "a \U0001f43c in a caf\u00e9"


def command(body: str) -> list[str]:
    """Return the arguments of a program that runs this body as a command."""
    work = textwrap.indent(textwrap.dedent(body), "    ")
    source = f"import os, sys, time\nfrom show1_jax.cli import run_command\ndef work():\n{work}\n"
    return [sys.executable, "-c", source + "sys.exit(run_command('sample', work))"]


def environment(**changes: str) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT)} | changes


def start(arguments: list[str], cwd: Path = ROOT, **changes: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        arguments,
        cwd=cwd,
        env=environment(**changes),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("encoding", "expected"), [("ascii", "a \\U0001f43c in a caf\\xe9\n"), ("utf-8", f"{EMOJI}\n")]
)
def test_what_an_encoding_lacks_is_written_in_ascii(
    monkeypatch: pytest.MonkeyPatch, encoding: str, expected: str
) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding))
    before = sys.stdout
    assert run_command("sample", lambda: print(EMOJI)) == 0
    assert written.getvalue().decode(encoding) == expected
    assert sys.stdout is before


def test_names_of_files_that_are_no_unicode_are_printed(capfd: pytest.CaptureFixture[str]) -> None:
    with tolerant_output():
        print("caf\udce9")
    assert capfd.readouterr().out == "caf\\udce9\n"


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize("flush", [True, False])
def test_a_command_continues_if_its_output_is_not_read(tmp_path: Path, stream: str, flush: bool) -> None:
    body = f"""
        for number in range(20_000):
            print(number, file=sys.{stream}, flush={flush})
        open("done", "w").close()
    """
    process = start(command(body), tmp_path)
    pipe = getattr(process, stream)
    assert pipe.readline() == "0\n"
    pipe.close()
    other = process.stderr if stream == "stdout" else process.stdout
    assert other is not None
    with other:
        assert other.read() == ""
    assert process.wait() == 0
    assert (tmp_path / "done").exists()


@pytest.mark.parametrize("streams", [">&-", "2>&-", ">&- 2>&- <&-", ">/dev/full", ">/dev/full 2>/dev/full"])
def test_a_command_continues_without_streams(tmp_path: Path, streams: str) -> None:
    """No file that it opens becomes its stdout."""
    body = """
        file = open("done", "w")
        print("on stdout")
        os.system("echo from below >&2")
        print("on stderr", file=sys.stderr, flush=True)
        from tqdm import tqdm
        tqdm(total=1, file=sys.stderr).close()
        file.write("done")
    """
    shell = ["sh", "-c", f'"$@" {streams}', "sh", *command(body)]
    done = subprocess.run(shell, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert (tmp_path / "done").read_text() == "done"


def test_an_error_of_the_system_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / ("x" * 300)
    assert run_command("sample", lambda: path.touch()) == 2
    assert capsys.readouterr().err == (
        f"sample: {path}: File name too long; check the path, its permissions and the disk\n"
    )


def interrupt(process: "subprocess.Popen[str]", *lines: str, program: str = "sample") -> None:
    """Send Ctrl-C after each of these lines is printed; the process then ends with one line."""
    assert process.stdout is not None
    assert process.stderr is not None
    for line in lines:
        assert process.stdout.readline() == f"{line}\n"
        process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert errors == f"{program}: interrupted\n"
    assert process.returncode == 130


@pytest.mark.parametrize("module", ["absl", "ml_collections", "jax", "jax.numpy", "flax"])
def test_ctrl_c_while_modules_are_imported(tmp_path: Path, module: str) -> None:
    """Also in a module that catches every exception."""
    if "." in module:
        (tmp_path / "jax").mkdir()
        (tmp_path / "jax" / "__init__.py").write_text("class config:\n    update = print")
    slow = tmp_path / f"{module.replace('.', '/')}.py"
    slow.write_text("import time\nprint('here', flush=True)\ntry:\n    time.sleep(60)\nexcept BaseException:\n    pass")
    if module == "jax.numpy":
        slow.parent.joinpath("__init__.py").write_text("from jax import numpy")
    arguments = [sys.executable, str(ROOT / "sample.py"), "--config", str(ROOT / "configs/demo.py")]
    interrupt(start(arguments, PYTHONPATH=f"{tmp_path}:{ROOT}"), "here")


@pytest.mark.parametrize(
    ("program", "arguments"),
    [
        ("train", ["train.py"]),
        ("convert", ["-m", "convert"]),
        ("data", ["-m", "show1_jax.data", "build"]),
        ("evaluation", ["-c", "from show1_jax.commands import console; console.evaluate()"]),
        ("convert", ["-c", "from show1_jax.commands import console; console.convert()"]),
    ],
)
def test_ctrl_c_while_modules_of_other_commands_are_imported(
    tmp_path: Path, program: str, arguments: list[str]
) -> None:
    (tmp_path / "absl.py").write_text("import time\nprint('here', flush=True)\ntime.sleep(60)")
    interrupt(start([sys.executable, *arguments], PYTHONPATH=str(tmp_path)), "here", program=program)


def test_a_first_ctrl_c_cleans_up(tmp_path: Path) -> None:
    body = """
        try:
            print("working", flush=True)
            time.sleep(60)
        finally:
            open("tidy", "w").close()
    """
    interrupt(start(command(body), tmp_path), "working")
    assert (tmp_path / "tidy").exists()


def test_a_second_ctrl_c_ends_at_once() -> None:
    body = """
        try:
            print("working", flush=True)
            time.sleep(60)
        finally:
            print("tidying up", flush=True)
            time.sleep(60)
    """
    interrupt(start(command(body)), "working", "tidying up")


def test_a_second_ctrl_c_has_a_line_of_its_own_below_a_progress_bar() -> None:
    body = """
        sys.stderr.write("\\rkeyframes: 50%")
        sys.stderr.flush()
        try:
            os.kill(os.getpid(), 2)
        finally:
            os.kill(os.getpid(), 2)
    """
    done = subprocess.run(command(body), env=environment(), capture_output=True)
    assert done.stderr == b"\rkeyframes: 50%\nsample: interrupted\n"


def test_a_ctrl_c_that_cannot_be_raised_is_raised_again() -> None:
    """In some places, e.g. a callback of the garbage collector, Python prints an exception and continues."""
    body = """
        class Slow:
            def __del__(self):
                print("deleting", flush=True)
                time.sleep(1)
        Slow()
        time.sleep(60)
    """
    interrupt(start(command(body)), "deleting")


def test_a_second_ctrl_c_is_one_line_while_the_first_is_raised_again() -> None:
    body = """
        import threading
        start = threading.Thread.start
        def starting(self):
            os.kill(os.getpid(), 2)
            start(self)
        threading.Thread.start = starting
        class Slow:
            def __del__(self):
                print("deleting", flush=True)
                time.sleep(1)
        Slow()
        time.sleep(60)
    """
    interrupt(start(command(body)), "deleting")


def test_a_command_in_the_background_is_not_interrupted() -> None:
    """A shell starts it with Ctrl-C ignored, which is for the command in the foreground."""
    body = """
        os.kill(os.getpid(), 2)
        print("done")
    """
    ignoring = "import os, signal, sys; signal.signal(2, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
    done = subprocess.run([sys.executable, "-c", ignoring, *command(body)], env=environment(), capture_output=True)
    assert (done.returncode, done.stdout) == (0, b"done\n")


@pytest.mark.parametrize(("code", "waits"), [(0, True), (2, False)])
def test_threads_in_the_background_delay_only_the_end_of_a_success(
    code: int, waits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a success such a thread is about to end, and what is registered to run at exit must run."""
    ended, at_once = threading.Event(), []

    def end_at_once(code: int) -> NoReturn:
        at_once.append(code)
        raise SystemExit

    threading.Thread(target=ended.wait, name=f"{BACKGROUND} worker").start()
    monkeypatch.setattr(os, "_exit", end_at_once)
    try:
        with pytest.raises(SystemExit):
            exit_process(code)
    finally:
        ended.set()
    assert at_once == ([] if waits else [code])


def test_tests_keep_their_own_ctrl_c() -> None:
    before = signal.getsignal(signal.SIGINT)
    run_command("sample", lambda: None)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("JAX_PLATFORMS", "cuda", "JAX finds no devices ("),
        ("JAX_PLATFORMS", "abacus", "JAX finds no devices (Unable to initialize backend 'abacus'"),
        ("JAX_ENABLE_X64", "maybe", "JAX does not start (invalid truth value 'maybe'"),
        ("JAX_DEFAULT_PRNG_IMPL", "dice", "JAX does not start ("),
    ],
)
def test_jax_that_cannot_start_is_one_line(tmp_path: Path, name: str, value: str, said: str) -> None:
    arguments = [
        sys.executable,
        str(ROOT / "sample.py"),
        "--config",
        str(ROOT / "tests/helpers/tiny_config.py"),
        "--prompt=x",
    ]
    process = start([*arguments, "--checkpoint=none"], tmp_path, **{name: value})
    _, errors = process.communicate()
    assert process.returncode == 2
    assert errors.startswith(f"sample: {said}")
    assert errors.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_processes_that_do_not_come_are_one_line() -> None:
    """Without this check JAX would abort the process and print the addresses of its functions."""
    body = f"""
        from show1_jax.parallel import mesh
        mesh._JOIN_TIMEOUT_SECONDS, mesh._NOTICE_AFTER_SECONDS = 5, 1
        mesh.initialize_distributed({free_address()!r}, 2, 1)
    """
    begun = time.monotonic()
    process = start(command(body))
    _, errors = process.communicate()
    assert process.returncode == 2
    assert time.monotonic() - begun < 60
    waiting, line = errors.splitlines()
    assert waiting.startswith("waiting for the other processes at 127.0.0.1:")
    assert line.startswith("cannot join the other processes at 127.0.0.1:")
