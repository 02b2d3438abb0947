"""Starting from saved indexes, building, compacting: what can be found is always what is stored."""

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from models.ranking import rank_corpus
from models.scoring import Method
from service.collection import Collection, Limits
from service.modes import load_state
from service.opening import OpenedFolder, open_collection
from service.retrieval import Scope, nearest
from service.settings import Settings
from service.store import ChunkRow, StoreError
from service.view import View

from .conftest import DIMENSION, index, unit_rows, whole_chunks, write_checkpoint, write_prepared

NOTHING = Scope(allowed_N=None, excluded=np.empty(0, np.int64))


def chunk(name: str, vector_D: np.ndarray, document: str = "new") -> ChunkRow:
    return ChunkRow(
        id=name, document_id=document, position=0, text=name, metadata={}, vector_D=vector_D
    )


@pytest.fixture
def copy(data: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(data, tmp_path / "data"))


@pytest.fixture
def opening() -> Iterator[Callable[..., Collection]]:
    opened: list[OpenedFolder] = []

    def once(data: Path, checkpoint: Path | None = None, **options: object) -> Collection:
        while opened:
            opened.pop().close()
        settings = Settings(data=data, checkpoint=checkpoint, **options)  # type: ignore[arg-type]
        opened.append(open_collection(settings))
        return opened[0].collection

    yield once
    for one in opened:
        one.close()


Open = Callable[..., Collection]


def stored_is_found(collection: Collection) -> None:
    """Every stored chunk is the nearest to its own vector, in each space; nothing else is there."""
    view = collection.view
    stored = {one.id: one for one in whole_chunks(collection.store)}
    assert view.living == len(stored) == sum(view.slots.alive_in.values())
    assert {view.slots.ids[slot] for slot in np.flatnonzero(view.alive)} == stored.keys()
    for name, one in stored.items():
        slot = view.slot(name)
        assert slot is not None
        np.testing.assert_array_equal(view.raw.vectors[slot], one.vector_D)
        for space in view.spaces:
            assert nearest(view, space, space.vectors[slot], NOTHING, 1).tolist() == [slot]


def test_both_spaces_are_loaded_exactly(
    copy: Path, checkpoint: Path, opening: Open, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        view = opening(copy, checkpoint).view
    raw_ND = unit_rows(48, 1)
    np.testing.assert_array_equal(view.raw.vectors[:48], raw_ND)
    served = view.models["default"]
    np.testing.assert_array_equal(served.space.vectors[:48], served.scorer.project(raw_ND))
    assert [space.indexed for space in view.spaces] == [48, 48]
    assert not caplog.records


def test_a_raw_space_model_needs_one_index(copy: Path, tmp_path: Path, opening: Open) -> None:
    assert len(opening(copy).view.spaces) == 1
    assert len(opening(copy, write_checkpoint(tmp_path / "raw", space="raw")).view.spaces) == 1


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


DAMAGES: list[Callable[[Path], None]] = [
    _truncate,
    _flip,
    lambda path: path.unlink(),
    lambda path: _flip(path.with_suffix(".rows.npy")),
    lambda path: path.with_suffix(".rows.npy").unlink(),
    lambda path: path.with_suffix(".json").unlink(),
    lambda path: path.with_suffix(".json").write_text("[]"),
    lambda path: path.with_suffix(".json").write_text("{"),
]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", ["raw", "learned"])
def test_a_damaged_index_is_told_in_one_line_and_not_needed(
    copy: Path,
    checkpoint: Path,
    kind: str,
    damage: Callable[[Path], None],
    opening: Open,
    caplog: pytest.LogCaptureFixture,
) -> None:
    damage(copy / f"index-{kind}.faiss")
    with caplog.at_level(logging.INFO):
        collection = opening(copy, checkpoint)
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        f"rebuilding the {kind} index"
    ]
    stored_is_found(collection)
    collection.build()
    caplog.clear()
    with caplog.at_level(logging.INFO):
        collection = opening(copy, checkpoint)
    assert not caplog.records
    assert [space.indexed for space in collection.view.spaces] == [48, 48]


def test_an_index_of_another_store_or_checkpoint_is_not_used(
    copy: Path, checkpoint: Path, tmp_path: Path, opening: Open, caplog: pytest.LogCaptureFixture
) -> None:
    opening(copy, write_checkpoint(tmp_path / "other", seed=8))
    assert "rebuilding the learned index: index-learned.faiss: built from" in caplog.text
    foreign = index(write_prepared(tmp_path / "foreign", seed=2), tmp_path / "data2", checkpoint)
    for path in copy.glob("index-*"):
        shutil.copy(foreign / path.name, path)
    collection = opening(copy, checkpoint)
    assert "rebuilding the raw index: index-raw.faiss: built from" in caplog.text
    stored_is_found(collection)


def test_an_index_that_is_behind_is_used_for_what_it_knows(
    copy: Path, checkpoint: Path, opening: Open, caplog: pytest.LogCaptureFixture
) -> None:
    collection = opening(copy, checkpoint)
    fresh_ND = unit_rows(6, 60)
    collection.upsert([chunk(f"new:{row}", fresh_ND[row]) for row in range(4)])
    collection.upsert([chunk("alpha:3", fresh_ND[4]), chunk("new:0", fresh_ND[5])])
    collection.delete(["delta:19", "beta:0", "new:1", "nowhere"])
    stored_is_found(collection)
    with caplog.at_level(logging.INFO):
        collection = opening(copy, checkpoint)
    assert "4 chunks are newer, 3 are gone" in caplog.text
    assert [space.indexed for space in collection.view.spaces] == [48, 48]
    assert collection.view.document("alpha").size == 11
    stored_is_found(collection)
    collection.build()
    stored_is_found(collection)


def test_other_data_replace_all(
    copy: Path, checkpoint: Path, tmp_path: Path, opening: Open, capsys: pytest.CaptureFixture[str]
) -> None:
    prepared = write_prepared(tmp_path / "other", seed=2)
    index(prepared, copy, checkpoint)
    assert "store: written, version 2, 48 chunks" in capsys.readouterr().out
    collection = opening(copy, checkpoint)
    np.testing.assert_array_equal(collection.view.raw.vectors[:48], unit_rows(48, 2))
    stored_is_found(collection)
    collection.upsert([chunk("live", unit_rows(1, 9)[0])])
    opening(tmp_path / "elsewhere")
    from service.__main__ import main

    assert main(["index", str(prepared), "--data", str(copy)]) == 1
    assert "holds 49 chunks that were written over HTTP" in capsys.readouterr().err
    assert main(["index", str(prepared), "--data", str(copy), "--replace"]) == 0


def test_an_index_that_cannot_be_saved_still_serves(
    copy: Path, checkpoint: Path, opening: Open, caplog: pytest.LogCaptureFixture
) -> None:
    (copy / "index-learned.faiss").unlink()
    (copy / "index-learned.faiss").mkdir()  # so that nothing can take its place
    collection = opening(copy, checkpoint)
    collection.build()
    assert [space.indexed for space in collection.view.spaces] == [48, 48]
    assert "could not be saved" in caplog.text


def test_a_folder_has_one_process(copy: Path, opening: Open) -> None:
    opening(copy)
    with pytest.raises(StoreError, match="in use by another nextchunk process"):
        open_collection(Settings(data=copy))


def test_building_and_compacting_change_no_answer(
    copy: Path, checkpoint: Path, opening: Open
) -> None:
    collection = opening(copy, checkpoint)
    collection.limits = Limits(fresh=5, dead=5)
    generator = np.random.default_rng(5)
    names = [f"live:{number}" for number in range(20)]
    old: list[tuple[View, dict[str, int | None]]] = []
    compacted = 0
    for step in range(60):
        some = generator.choice(names, 3, replace=False).tolist()
        if generator.random() < 0.35:
            collection.delete(some)
        else:
            fresh_ND = unit_rows(3, 1000 + step)
            collection.upsert([chunk(n, v) for n, v in zip(some, fresh_ND, strict=True)])
        if collection.due():
            slots = collection.view.slots
            collection.build()
            compacted += collection.view.slots is not slots
        if step % 10 == 0:
            view = collection.view
            old.append((view, {name: view.slot(name) for name in names}))
        stored_is_found(collection)
    assert compacted >= 2
    for view, expected in old:  # what a request saw, it still sees
        assert {name: view.slot(name) for name in names} == expected
        assert view.living == int(view.alive.sum())


def test_it_ranks_as_offline_evaluation_does(copy: Path, checkpoint: Path, opening: Open) -> None:
    from models.ranking import Corpus
    from service.engine import Engine
    from service.timing import Deadline, Stages

    collection = opening(copy, checkpoint)
    settings = Settings(data=copy)
    engine = Engine(collection, settings, lambda *_: np.empty((0, DIMENSION), np.float32))
    scorer = load_state(checkpoint, DIMENSION).scorer()
    corpus = Corpus.build(unit_rows(48, 1), scorer)
    window = np.array([3, 4, 5])
    queries = scorer.query(*scorer.pack([corpus.raw_ND[window]]), Method.P8)
    offline = rank_corpus(scorer, queries, corpus, [window], 10)[0]
    body = {"context_ids": ["alpha:3", "alpha:4", "alpha:5"]}
    answer = engine.rank(body, Stages(), Deadline(1e9))
    ids = collection.view.slots.ids
    assert [hit["id"] for hit in answer["results"]] == [ids[row] for row in offline.rows_K]
    assert [hit["score"] for hit in answer["results"]] == offline.scores_K.tolist()


def test_a_manifest_says_what_was_built(copy: Path) -> None:
    manifest = json.loads((copy / "index-learned.json").read_text())
    assert manifest["kind"] == "flat"
    assert manifest["size"] == 48
    assert set(manifest["fingerprint"]) == {"store_id", "checkpoint", "dimension"}


def test_a_model_that_was_reloaded_starts_from_what_was_saved(
    copy: Path, checkpoint: Path, tmp_path: Path, opening: Open, caplog: pytest.LogCaptureFixture
) -> None:
    collection = opening(copy, checkpoint)
    other = write_checkpoint(tmp_path / "other", seed=8)
    state = load_state(other, DIMENSION)
    collection.set_model(collection.prepare_model("default", state, rerank=True))
    stored_is_found(collection)
    with caplog.at_level(logging.INFO):
        collection = opening(copy, other)
    assert not caplog.records
    stored_is_found(collection)
