"""Fixtures of the tests of the page."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from show1_jax.config.config_file import Config
from show1_jax.web.requests import Form, Limits, Task, make_task
from show1_jax.web.vocabulary import Vocabulary
from show1_jax.web.worker import Worker
from tests.helpers.web_pages import PROMPT, DrawnSampler, manifest_of, settings


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Return the settings of a page with its own output directory, whose videos are small."""
    return settings(tmp_path / "out", "--config.superres_latent.height=40", "--config.superres_latent.width=72")


@pytest.fixture
def sampler(config: Config) -> DrawnSampler:
    """Return a double of the cascade."""
    return DrawnSampler(config)


@pytest.fixture
def worker(sampler: DrawnSampler) -> Iterator[Worker]:
    """Return a worker with the double, which is closed at the end of the test."""
    worker = Worker(sampler, Limits(waiting=25))
    worker.start()
    yield worker
    sampler.gate.set()
    assert worker.close(120)


@pytest.fixture
def task(config: Config) -> Callable[..., Task]:
    """Return a function that makes a task of the fields of a form; by default it samples `PROMPT`."""
    vocabulary = Vocabulary.of(config, manifest_of(config))

    def make(**fields: object) -> Task:
        return make_task(Form(**{"prompt": PROMPT, **fields}), config, vocabulary, Limits())  # type: ignore[arg-type]

    return make
