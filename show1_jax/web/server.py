"""The server of the page: its addresses, its socket, and its life from the first request to the last."""

import asyncio
import contextlib
import logging
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any, Final

import uvicorn
from fastapi import FastAPI, Response
from fastapi.responses import FileResponse, JSONResponse

from show1_jax.checkpoints.manifest import Manifest
from show1_jax.config.config_file import Config
from show1_jax.errors import UserError
from show1_jax.sampling.job import open_checkpoints
from show1_jax.web.gallery import Gallery
from show1_jax.web.guard import HEALTH, Credentials, Guard, is_loopback
from show1_jax.web.markup import FILES
from show1_jax.web.requests import Limits
from show1_jax.web.uploads import Uploads
from show1_jax.web.vocabulary import Vocabulary
from show1_jax.web.worker import CascadeSampler, Sampler, Worker

DEFAULT_PORT: Final = 7860
_PORTS: Final = 100
"""Number of ports that are tried after the default one."""
_STEP_SECONDS: Final = 60
"""Longest time to wait, when the server ends, for the step that runs."""


def make_application(config: Config, manifest: Manifest, worker: Worker, limits: Limits, private: Path) -> FastAPI:
    """Return the page with its other addresses: the videos' files, and `/health`.

    Args:
        config: settings of the page.
        manifest: manifest of the checkpoint.
        worker: the worker.
        limits: limits of the page.
        private: folder for this process alone, for files that are uploaded.
    """
    # read by Gradio when it is imported, and at every upload
    os.environ["GRADIO_TEMP_DIR"] = str(private / "gradio")
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    import gradio as gr

    from show1_jax.web import page

    gallery = Gallery(config.out)
    gallery.clean()
    application = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @application.api_route(HEALTH, methods=["GET", "HEAD"])
    def health() -> JSONResponse:
        state = worker.health()
        body = {"status": state.status, "loaded": state.loaded, "waiting": state.waiting, "running": state.running}
        return JSONResponse(body, 200 if state.status in ("starting", "ready") else 503)

    @application.api_route(f"/{FILES}/{{name}}/{{file}}", methods=["GET", "HEAD"])
    def video_file(name: str, file: str) -> Response:
        path = gallery.file(name, file)
        if path is None:
            return Response("there is no such file\n", 404, media_type="text/plain")
        return FileResponse(path, headers={"cache-control": "private, max-age=3600"})

    services = page.Services(
        config,
        Vocabulary.of(config, manifest),
        limits,
        worker,
        gallery,
        Uploads(private / "uploads", config, limits),
        secrets.token_urlsafe(16),
    )
    blocks = page.build(services)
    # `launch` would set it. Without it, Gradio takes the path of any file of this machine for that of an uploaded one.
    blocks.has_launched = True
    gr.mount_gradio_app(
        application,
        blocks,
        "/",
        footer_links=[],
        run_history=False,
        show_error=True,
        max_file_size=limits.upload_bytes,
        ssr_mode=False,
        pwa=False,
        enable_monitoring=False,
        mcp_server=False,
        theme=page.theme(),
        css=page.asset("page.css"),
        head=f"<script>{page.asset('page.js')}</script>",
    )
    return application


def bind(host: str, port: int | None) -> socket.socket:
    """Return a socket that is bound to an address.

    Args:
        host: name or address of this machine.
        port: the port; None: 7860, or the next one that is free.

    Raises:
        UserError: the port is taken or may not be used, or the address is not one of this machine.
    """
    ports = range(DEFAULT_PORT, DEFAULT_PORT + _PORTS) if port is None else (port,)
    for number in ports:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM)[0]
            bound = socket.socket(family, kind, protocol)
        except OSError as error:
            raise UserError(f"--host={host} is no address of this machine ({error.strerror}); give another") from None
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
            bound.listen(128)  # a second server cannot bind from now on
            return bound
        except PermissionError:
            bound.close()
            raise UserError(f"port {number} needs more rights; choose one above 1023 with --port") from None
        except OSError as error:
            bound.close()
            if port is not None:
                reason = "is taken" if "in use" in (error.strerror or "") else f"cannot be used ({error.strerror})"
                raise UserError(f"port {number} of {host} {reason}; choose another with --port") from None
    raise UserError(f"ports {ports[0]} to {ports[-1]} of {host} are taken; choose another with --port")


def serve(
    config: Config,
    *,
    host: str,
    port: int | None,
    credentials: Credentials | None = None,
    batch_size: int | None = None,
) -> None:
    """Serve the page until the process is interrupted or told to end (SIGTERM); then end within a step.

    Args:
        config: settings of the page.
        host: see `bind`.
        port: see `bind`.
        credentials: user name and password; None: everybody may use the page.
        batch_size: see `Limits`.

    Raises:
        UserError: there is no checkpoint, or the address cannot be used.
        KeyboardInterrupt: Ctrl-C was pressed, after everything has ended.
    """
    checkpoints = open_checkpoints(config)
    sampler, limits = CascadeSampler(config, checkpoints), Limits(batch_size=batch_size)
    listener = bind(host, port)
    with (
        serving(config, checkpoints.manifest, sampler, listener, credentials=credentials, limits=limits) as is_running,
        _terminable() as terminated,
    ):
        print(f"the page is at {address_of(listener)}; Ctrl-C ends it", flush=True)
        while is_running() and not terminated.wait(0.5):
            pass


@contextlib.contextmanager
def serving(
    config: Config,
    manifest: Manifest,
    sampler: Sampler,
    listener: socket.socket,
    *,
    credentials: Credentials | None,
    limits: Limits,
) -> Iterator[Callable[[], bool]]:
    """Serve the page in threads while the block lasts; at its end, stop the job that runs.

    Yields:
        Function that returns whether the server still runs.
    """
    worker = Worker(sampler, limits)
    private = Path(tempfile.mkdtemp(prefix="show1-web-"))  # readable by this user alone
    is_local = is_loopback(listener.getsockname()[0])
    try:
        worker.start()
        application = _in_event_loop(lambda: make_application(config, manifest, worker, limits, private))
        guard = Guard(application, credentials, is_local=is_local, upload_bytes=limits.upload_bytes)
        with _running(guard, listener) as is_running:
            yield is_running
    finally:
        listener.close()
        if not worker.close(_STEP_SECONDS):
            print("web: the step that runs is left behind", file=sys.stderr)
        shutil.rmtree(private, ignore_errors=True)


def _in_event_loop(make: Callable[[], FastAPI]) -> FastAPI:
    """Call a function in a thread with an event loop: without one, Gradio makes loops that nobody closes."""

    async def call() -> FastAPI:
        return make()

    with ThreadPoolExecutor(1) as executor:
        return executor.submit(asyncio.run, call()).result()


def address_of(listener: socket.socket) -> str:
    """Return the address of the page, for a browser on this machine."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


@contextlib.contextmanager
def _running(application: Any, listener: socket.socket) -> Iterator[Callable[[], bool]]:
    """Serve an application in a thread while the block lasts; yields a function that says whether it still runs."""
    settings = uvicorn.Config(
        application, log_level="warning", access_log=False, timeout_graceful_shutdown=1, ws="none"
    )
    server = uvicorn.Server(settings)
    thread = threading.Thread(target=server.run, args=([listener],), name="web server", daemon=True)
    thread.start()
    try:
        yield thread.is_alive
    finally:
        logging.getLogger("uvicorn.error").disabled = True  # it reports every open page as a cancelled request
        server.should_exit = True
        thread.join(5)


@contextlib.contextmanager
def _terminable() -> Iterator[threading.Event]:
    """Let SIGTERM set an event while the block lasts, rather than kill the process."""
    event = threading.Event()

    def terminate(number: int, frame: FrameType | None) -> None:
        event.set()

    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield event
    finally:
        signal.signal(signal.SIGTERM, before)
