"""Deadlines in mid-flight, without a socket."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from service.engine import Engine
from service.errors import DeadlineError
from service.opening import open_collection
from service.settings import Settings
from service.timing import Deadline, GoneError, Stages

from .conftest import DIMENSION


@pytest.fixture(scope="module")
def engine(
    data: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engine]:
    folder = shutil.copytree(data, tmp_path_factory.mktemp("deadlines") / "data")
    settings = Settings(data=Path(folder), checkpoint=checkpoint)
    opened = open_collection(settings)
    yield Engine(opened.collection, settings, lambda *_: np.empty((0, DIMENSION), np.float32))
    opened.close()


class Ticks:
    """A clock that stands at 0 until it has been read often enough, and then is late."""

    def __init__(self, reads: int) -> None:
        self.left = reads

    def __call__(self) -> float:
        self.left -= 1
        return 0.0 if self.left >= 0 else 10.0


@pytest.mark.parametrize(("reads", "reason"), [(1, "deadline"), (2, "deadline"), (3, None)])
def test_the_deadline_counts_until_the_re_ranking(
    engine: Engine, reads: int, reason: str | None
) -> None:
    # Reads: when the deadline is set, before the query, before the re-ranking.
    body = {"context_ids": ["alpha:0"]}
    answer = engine.rank(body, Stages(), Deadline(5.0, Ticks(reads)))
    assert answer["fallback_reason"] == reason
    assert answer["model"]["method"] == ("direct" if reason else "p8")
    assert len(answer["results"]) == 10
    if reason:
        for mode in ("p8", "retrieval"):
            with pytest.raises(DeadlineError, match="within 5 ms"):
                engine.rank({**body, "mode": mode}, Stages(), Deadline(5.0, Ticks(reads)))


def test_nothing_is_done_for_a_client_that_went(engine: Engine) -> None:
    deadline = Deadline(1e9)
    deadline.cancel()
    for ask, body in (
        (engine.rank, {"context_ids": ["alpha:0"]}),
        (engine.score, {"context_ids": ["alpha:0"], "candidates": [{"id": "alpha:1"}]}),
        (engine.order, {"a_id": "alpha:0", "b_id": "alpha:1"}),
        (engine.sequence, {"document_id": "alpha"}),
    ):
        with pytest.raises(GoneError):
            ask(body, Stages(), deadline)
