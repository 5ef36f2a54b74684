"""Chromium for tests of the page, and the address of a page that a child process serves."""

import contextlib
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright
from playwright.sync_api import TimeoutError as PlaywrightTimeoutError

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
REQUIRED = "SHOW1_REQUIRE_BROWSER"
_ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
)


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """Start the Chromium that is installed; without one, skip the test, or fail it if a browser is required."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        reason = f"no browser is installed: none of {', '.join(NAMES)}"
        if os.environ.get(REQUIRED):
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(_ARGUMENTS))
        try:
            yield browser
        finally:
            browser.close()


class Visitor:
    """A person with a browser of their own on a page.

    Attributes:
        page: the page.
        elsewhere: addresses of other servers that were requested.
        errors: errors of the page's console.
    """

    def __init__(self, browser: Browser, address: str, **options: Any):
        self.context: BrowserContext = browser.new_context(
            viewport={"width": 1280, "height": 900} | options.pop("size", {}), **options
        )
        self.address, self.elsewhere, self.errors = address, list[str](), list[str]()
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(120_000)
        self.page.on("request", lambda request: self._check(request.url))
        self.page.on("console", lambda line: self.errors.append(line.text) if line.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))

    def open(self) -> "Visitor":
        """Open the page and wait until its form is there."""
        self.page.goto(self.address)
        self.page.wait_for_selector("#new-prompt textarea")
        return self

    def sample(self, prompt: str, seed: int) -> None:
        """Fill in the form of a new video, and sample it with the keyboard.

        If nothing is said about it, once more: a page that has just appeared may not take the keys yet.
        """
        before = self.page.inner_html("#new-status")
        for _ in range(2):
            self.page.fill("#new-seed input", str(seed))
            self.page.fill("#new-prompt textarea", prompt)
            self.page.keyboard.press("Control+Enter")
            with contextlib.suppress(PlaywrightTimeoutError):
                self.page.wait_for_function(
                    "before => document.querySelector('#new-status').innerHTML !== before", arg=before, timeout=15_000
                )
                return

    def wait(self, selector: str) -> Any:
        """Wait for a part of the page to be visible."""
        return self.page.wait_for_selector(selector)

    def stages(self, kind: str = "new") -> list[str]:
        """Return the stages that are shown small."""
        found = self.page.query_selector_all(f"#{kind}-results .thumb[data-stage]")
        return [picture.get_attribute("data-stage") or "" for picture in found]

    def _check(self, url: str) -> None:
        if not url.startswith((self.address, "data:", "blob:")):
            self.elsewhere.append(url)


@contextlib.contextmanager
def command(arguments: Sequence[str], folder: Path, environment: dict[str, str]) -> Iterator[tuple[Any, str]]:
    """Run a command that serves a page; yields the process and the address that it prints, and kills it at the end."""
    process = subprocess.Popen(
        arguments, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    alarm = threading.Timer(120, process.kill)  # a process that prints nothing does not block the tests
    alarm.start()
    try:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if found := re.search(r"http://\S+/", line):
                yield process, found[0]
                return
        raise AssertionError("".join(lines))
    finally:
        alarm.cancel()
        process.kill()
        process.communicate()
