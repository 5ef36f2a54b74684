"""Serve a page that samples videos in a browser (extra `web`).

  python -m show1_jax.web --config demo
  python -m show1_jax.web --config full --port 8000

The page is for this machine alone, at the address that is printed. To share it, give --host 0.0.0.0 and set the
environment variables SHOW1_WEB_USER and SHOW1_WEB_PASSWORD. Videos are written as sample.py writes them. The address
/health answers without a password. Ctrl-C ends the server within a denoising step; finished stages are kept.
"""

import sys

from show1_jax.terminal import end_at_once, exit_process

if __name__ == "__main__":
    end_at_once("web")  # Ctrl-C while the modules below are imported

from collections.abc import Sequence
from typing import Final

from absl import flags

from show1_jax import cli
from show1_jax.errors import UserError
from show1_jax.files import check_writable, user_path

_LOOPBACK: Final = "127.0.0.1"


def define_flags() -> flags.FlagValues:
    """Return the flags of this command; help texts start with the value's name."""
    values = cli.new_flags()
    text = flags.DEFINE_string
    text("host", _LOOPBACK, "ADDRESS: address to bind to; 0.0.0.0: all of this machine's", flag_values=values)
    flags.DEFINE_integer("port", None, "N: port; by default 7860, or the next one that is free", flag_values=values)
    cli.define_weight_flags(values)
    flags.DEFINE_integer("batch_size", None, "N: videos of a request that are sampled together", flag_values=values)
    text("negative_prompt", None, "TEXT: first value of the negative prompt", flag_values=values)
    flags.DEFINE_integer("seed", None, "SEED: first value of the seed", flag_values=values)
    flags.DEFINE_bool("help", False, "show this help", short_name="h", flag_values=values)
    return values


def run(argv: Sequence[str]) -> None:
    """Run a command line: check it, then serve the page until the process is interrupted.

    Raises:
        UserError: bad input, see `show1_jax.cli.run_command`; or Gradio is not installed.
    """
    values = define_flags()
    config = cli.read_config(values, argv, __doc__, ["negative_prompt", "seed", "checkpoint", "adapter", "out"])
    if config is None:
        return
    if values.port is not None and not 1 <= values.port <= 65535:
        raise UserError(f"--port={values.port} must be from 1 to 65535")
    if values.batch_size is not None and values.batch_size < 1:
        raise UserError(f"--batch_size={values.batch_size} must be at least 1")
    try:
        import gradio  # noqa: F401 (here, so that its absence is one line)
    except ImportError as error:
        raise UserError(f"the page needs Gradio ({error}); install it with pip install 'show1-jax[web]'") from None

    from show1_jax.web.guard import Credentials, is_loopback

    credentials = Credentials.from_environment()
    check_writable(user_path(config.out))
    if credentials is None and not is_loopback(values.host):
        print(
            f"web: warning: everybody who reaches {values.host} can use the page; set SHOW1_WEB_USER and "
            "SHOW1_WEB_PASSWORD",
            file=sys.stderr,
        )
    with cli.importing_jax("web"):
        from show1_jax.web.server import serve

    serve(config, host=values.host, port=values.port, credentials=credentials, batch_size=values.batch_size)


def main() -> int:
    """Run the command line of this process and return its exit code."""
    return cli.run_command("web", lambda: run(sys.argv))


if __name__ == "__main__":
    exit_process(main())
