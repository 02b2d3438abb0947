"""Real text, real vectors, a trained checkpoint and a service in a process of its own."""

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pydoc_data.topics import topics

import httpx
import pytest

from training.__main__ import main as training

# Short enough to embed in seconds, long enough for every split to have documents.
TOPICS = sorted((name for name in topics if 2_000 < len(topics[name]) < 12_000), key=str)[:34]


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of plain text: sections of Python's language reference."""
    folder = tmp_path_factory.mktemp("texts") / "docs"
    folder.mkdir()
    for name in TOPICS:
        (folder / f"{name}.txt").write_text(topics[name], encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory, texts: Path) -> Path:
    """The same, prepared and embedded by MiniLM."""
    out = tmp_path_factory.mktemp("embedded") / "data"
    assert training(["prepare", str(texts), "--out", str(out)]) == 0
    assert training(["embed", str(out)]) == 0
    return out


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, embedded: Path) -> Path:
    """A checkpoint trained on them for two epochs."""
    out = tmp_path_factory.mktemp("trained") / "checkpoint"
    assert training(["train", str(embedded), "--out", str(out), "--epochs", "2"]) == 0
    return out


@contextmanager
def serving(*arguments: str | Path) -> Iterator[httpx.Client]:
    """Run ``python -m service serve`` on a free port until the block ends."""
    command = [sys.executable, "-m", "service", "serve", "--port", "0", *map(str, arguments)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                found = re.search(r"listening on (\S+)", line)
                if found:
                    break
            else:
                raise AssertionError("the service ended before it listened")
            with httpx.Client(base_url=found[1], timeout=30) as client:
                _wait_until_ready(client)
                yield client
        finally:
            process.terminate()
            process.wait(20)


def _wait_until_ready(client: httpx.Client, limit_s: float = 30) -> None:
    until = time.monotonic() + limit_s
    while client.get("/readyz").status_code != 200:
        assert time.monotonic() < until, "the service did not become ready"
        time.sleep(0.05)
