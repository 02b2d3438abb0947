"""What services that share one store must do: what is written through one is found by all, at once.

A module that runs it has a fixture ``backend`` (module scope) and imports the fixtures of
``contract``.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from .conftest import DIMENSION, Live, unit_rows
from .contract import Backend, served
from .contract_data import chunk, eventually
from .contract_writes import acknowledged, content, delete, nearest, put, rank, within


@pytest.fixture(scope="module")
def replicas(backend: Backend, models: dict[str, Path]) -> Iterator[tuple[Live, Live, Path]]:
    """Two services on one store that was empty when both came up, and the second's folder."""
    with backend.store() as options, ExitStack() as stack:
        folder = options["data"].parent / "of the other"
        one = stack.enter_context(served(options, models["default"]))
        other = stack.enter_context(served({**options, "data": folder}, models["default"]))
        yield one, other, folder


Replicas = tuple[Live, Live, Path]


class ReplicaContract:
    """What services that share one store must do."""

    def test_what_one_writes_the_other_finds_at_once(self, replicas: Replicas) -> None:
        rows_ND = unit_rows(8, 80)
        for turn, row_D in enumerate(rows_ND):
            one, other = replicas[:2] if turn % 2 else replicas[1::-1]
            name = f"both:{turn}"
            version = acknowledged(one, chunk(name, "both", turn, row_D, text=f"Turn {turn}"))
            asking: dict[str, Any] = {"context": [row_D.tolist()], "mode": "retrieval"}
            answer = other.ok("/v1/rank", asking)
            assert answer["results"][0]["id"] == name
            assert answer["index_version"] >= version
            assert within(other, "both") == {f"both:{each}" for each in range(turn + 1)}
            assert content(other, "both") == [f"both:{each}" for each in range(turn + 1)]
            assert other.http.get(f"/v1/chunks/{name}").json()["text"] == f"Turn {turn}"

    def test_what_one_replaces_or_deletes_is_so_for_the_other(self, replicas: Replicas) -> None:
        one, other, _ = replicas
        old_D, new_D, far_D = unit_rows(3, 81)
        for turn in range(4):
            names = [f"swap{turn}:0", f"swap{turn}:1"]
            first = [chunk(name, f"swap{turn}", place, old_D) for place, name in enumerate(names)]
            acknowledged(one, *first)
            assert within(other, f"swap{turn}") == set(names)
            acknowledged(other, chunk(names[0], f"other{turn}", 0, new_D))
            wanted = {"filter": {"document_ids": [f"other{turn}"]}}
            found = rank(one, new_D, **wanted)
            assert [each["id"] for each in found] == names[:1]
            assert found[0]["score"] == pytest.approx(1.0, abs=1e-5)
            candidates = [{"vector": new_D.tolist()}]
            scored = one.ok("/v1/score", {"context": [far_D.tolist()], "candidates": candidates})
            ranked = rank(one, far_D, mode="p8", **wanted)
            assert ranked[0]["score"] == pytest.approx(scored["results"][0]["score"], abs=1e-5)
            assert content(one, f"swap{turn}") == names[1:]
            assert delete(one, ids=names) == 2
            assert within(other, f"swap{turn}") == within(other, f"other{turn}") == set()
            assert names[0] not in nearest(other, new_D)
            assert other.http.get(f"/v1/chunks/{names[1]}").status_code == 404
            assert other.http.get(f"/v1/documents/swap{turn}").status_code == 404
            assert delete(other, ids=names) == 0

    def test_versions_rise_whoever_writes(self, replicas: Replicas) -> None:
        one, other, _ = replicas
        row_D = unit_rows(1, 82)[0]
        versions = [
            acknowledged((one, other)[turn % 2], chunk("turns", "turns", turn, row_D))
            for turn in range(6)
        ]
        assert versions == sorted(set(versions))
        assert one.http.get("/v1/chunks/turns").json()["position"] == 5
        for running in (one, other):
            answer = running.ok("/v1/rank", {"context": [row_D.tolist()], "mode": "retrieval"})
            assert answer["index_version"] >= versions[-1]

    def test_a_key_is_known_to_both(self, replicas: Replicas) -> None:
        one, other, _ = replicas
        given = chunk("shared key", "shared key", 0, unit_rows(1, 83)[0])
        key = {"Idempotency-Key": "replicas-1"}
        first = put(one, given, **key)
        again = put(other, given, **key)
        assert again.headers["Idempotency-Replayed"] == "true"
        assert again.json() == first.json()
        reused = put(other, {**given, "text": "other"}, **key)
        assert reused.json()["code"] == "idempotency_key_reused"

    def test_both_write_at_once(self, replicas: Replicas) -> None:
        rows_ND = unit_rows(24, 84)

        def write(turn: int) -> None:
            running = replicas[turn % 2]
            assert isinstance(running, Live)
            acknowledged(running, chunk(f"race:{turn}", f"race {turn % 3}", turn, rows_ND[turn]))

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(write, range(24)))
        for running in replicas[:2]:
            for part in range(3):
                expected = {f"race:{turn}" for turn in range(24) if turn % 3 == part}
                assert within(running, f"race {part}") == expected
        with ThreadPoolExecutor(4) as pool:
            gone = pool.map(
                lambda turn: delete(replicas[turn % 2], ids=[f"race:{turn}"]), range(24)
            )
            assert list(gone) == [1] * 24
        listed = replicas[0].http.get("/v1/documents?limit=1000").json()["documents"]
        assert not [each for each in listed if each["id"].startswith("race")]

    def test_both_count_alike(self, replicas: Replicas, backend: Backend) -> None:
        def stores() -> list[dict[str, Any]]:
            found = [running.http.get("/v1/stats").json()["store"] for running in replicas[:2]]
            for each in found:
                del each["version"]
            return found

        def right() -> bool:
            listed = replicas[0].http.get("/v1/documents?limit=1000").json()["documents"]
            chunks = sum(each["chunks"] for each in listed)
            counts = (chunks, len(listed))
            return all((each["chunks"], each["documents"]) == counts for each in stores())

        eventually(right, backend.settles_s)
        assert stores()[0] == stores()[1]

    def test_an_empty_store_is_made_once(self, backend: Backend, tmp_path: Path) -> None:
        rows_ND = unit_rows(2, 85, dimension=5)
        with backend.store() as options, ExitStack() as stack:
            one = stack.enter_context(served(options, None))
            other = stack.enter_context(served({**options, "data": tmp_path / "other"}, None))
            for running, name, row_D in ((one, "a", rows_ND[0]), (other, "b", rows_ND[1])):
                acknowledged(running, chunk(name, "doc", 0, row_D))
            for running in (one, other):
                assert within_raw(running, 5) == {"a", "b"}
            wrong = put(other, chunk("c", "doc", 0, np.ones(DIMENSION)))
            assert wrong.json()["code"] == "wrong_dimension"

    def test_nothing_is_kept_in_the_data_folder(self, replicas: Replicas) -> None:
        folder = replicas[2]
        assert not folder.exists() or not list(folder.iterdir())


def within_raw(running: Live, dimension: int) -> set[str]:
    return set(nearest(running, np.ones(dimension)))
