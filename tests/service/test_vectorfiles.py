"""Vectors in files: trusted as far as they were counted, and never where the store has others."""

import errno
import json
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from models.index import IndexKind
from service.collection import Collection, Limits
from service.errors import StorageFullError
from service.mapped import HEADER_BYTES, Growing, Mapped
from service.modes import load_state
from service.opening import OpenedFolder, open_collection
from service.retrieval import Scope, nearest
from service.settings import Settings
from service.store import ChunkRow
from service.vectorfiles import VectorFiles

from .conftest import DIMENSION, index, unit_rows, whole_chunks, write_checkpoint, write_prepared

NOTHING = Scope(allowed_N=None, excluded=np.empty(0, np.int64))
ROW_BYTES = 4 * DIMENSION
Open = Callable[..., Collection]


@pytest.fixture
def copy(data: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(data, tmp_path / "data"))


@pytest.fixture
def opening() -> Iterator[Open]:
    opened: list[OpenedFolder] = []

    def once(data: Path, checkpoint: Path | None = None) -> Collection:
        while opened:
            opened.pop().close()
        opened.append(open_collection(Settings(data=data, checkpoint=checkpoint)))
        return opened[0].collection

    yield once
    for one in opened:
        one.close()


def chunks(count: int, seed: int, prefix: str = "new") -> list[ChunkRow]:
    return [
        ChunkRow(
            id=f"{prefix}:{row}",
            document_id=prefix,
            position=row,
            text="",
            metadata={"row": row},
            vector_D=vector_D,
        )
        for row, vector_D in enumerate(unit_rows(count, seed))
    ]


def files(data: Path) -> list[str]:
    return sorted(path.name for path in data.glob("vectors-*"))


def the_file(data: Path, space: str, suffix: str = "f32") -> Path:
    (path,) = data.glob(f"vectors-{space}.*.{suffix}")
    return path


def is_right(collection: Collection) -> None:
    """Each space holds what the store holds, bit by bit, and finds it."""
    view = collection.view
    stored = whole_chunks(collection.store)
    assert view.living == len(stored)
    for one in stored:
        slot = view.slot(one.id)
        assert slot is not None
        np.testing.assert_array_equal(view.raw.vectors[slot], one.vector_D)
        for space in view.spaces:
            assert nearest(view, space, space.vectors[slot], NOTHING, 1).tolist() == [slot]
    for served in view.models.values():
        if served.space is not view.raw:
            expected_ND = served.scorer.project(view.raw.vectors[: view.count].copy())
            found_ND = served.space.vectors[: view.count]
            np.testing.assert_allclose(found_ND[view.alive], expected_ND[view.alive], atol=1e-6)


def test_a_start_takes_the_vectors_from_the_files(
    copy: Path, checkpoint: Path, opening: Open, caplog: pytest.LogCaptureFixture
) -> None:
    before = files(copy)
    assert len(before) == 5
    with caplog.at_level(logging.INFO):
        collection = opening(copy, checkpoint)
    assert not caplog.records
    raw = collection.view.slots.raw
    assert isinstance(raw, Mapped)
    assert (raw.path.name in before, raw.size) == (True, 48)
    assert not collection.view.raw.vectors.flags.writeable
    is_right(collection)
    collection.upsert(chunks(7, 60))
    collection.delete(["alpha:3", "new:2"])
    is_right(collection)
    collection = opening(copy, checkpoint)
    assert collection.view.slots.raw.size == 55
    assert collection.view.dead == 2
    assert files(copy) == before
    is_right(collection)


def test_a_killed_process_leaves_what_was_counted(
    copy: Path, checkpoint: Path, tmp_path: Path, opening: Open, caplog: pytest.LogCaptureFixture
) -> None:
    collection = opening(copy, checkpoint)
    collection.upsert(chunks(7, 60))
    collection.upsert(chunks(3, 61))  # which replaces some
    killed = Path(shutil.copytree(copy, tmp_path / "killed"))
    for space in ("raw", "learned"):
        with the_file(killed, space).open("r+b") as file:  # written later than the kill has it
            file.seek(HEADER_BYTES + 50 * ROW_BYTES)
            file.write(b"\xff" * 3 * ROW_BYTES)
    with caplog.at_level(logging.WARNING):
        collection = opening(killed, checkpoint)
    assert not caplog.records
    assert collection.view.count == 48 + 7
    is_right(collection)


def test_vectors_are_kept_when_many_are_not(copy: Path, checkpoint: Path, opening: Open) -> None:
    collection = opening(copy, checkpoint)
    collection.keep()
    collection.limits = Limits(fresh=5)
    assert not collection.unkept
    collection.upsert(chunks(6, 60))
    assert collection.unkept
    collection.keep()
    assert not collection.unkept
    assert json.loads((copy / "vectors-raw.json").read_text())["size"] == 54
    assert json.loads((copy / "vectors-learned.json").read_text())["size"] == 54


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: HEADER_BYTES + 100])


def _spoil(at: int) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[at] ^= 0x40
        path.write_bytes(content)

    return spoil


def _say(text: str) -> Callable[[Path], None]:
    return lambda path: path.with_name(f"vectors-{path.name.split('.')[0][8:]}.json").write_text(
        text
    )


DAMAGES: dict[str, Callable[[Path], None]] = {
    "cut": _cut,
    "other header": _spoil(3),
    "other vector": _spoil(HEADER_BYTES + 17 * ROW_BYTES + 3),
    "gone": lambda path: path.unlink(),
    "no JSON": _say("{"),
    "no object": _say("[]"),
    "no size": _say('{"token": "0123456789ab"}'),
    "elsewhere": _say('{"token": "../../etc/passwd", "size": 48}'),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("space", ["raw", "learned"])
def test_a_damaged_file_is_told_in_one_line_and_made_again(
    copy: Path,
    checkpoint: Path,
    space: str,
    damage: str,
    opening: Open,
    caplog: pytest.LogCaptureFixture,
) -> None:
    DAMAGES[damage](the_file(copy, space))
    with caplog.at_level(logging.WARNING):
        collection = opening(copy, checkpoint)
    told = [record.getMessage().partition(":")[0] for record in caplog.records]
    # Projections of other slots than there were are of no use, either.
    projecting = "projecting all vectors of model default again"
    reading = ["reading all vectors from the store"] if space == "raw" else []
    assert told == [*reading, projecting]
    is_right(collection)
    assert len(files(copy)) <= 8
    opening(copy, checkpoint)
    caplog.clear()
    with caplog.at_level(logging.INFO):
        collection = opening(copy, checkpoint)
    assert not caplog.records
    assert len(files(copy)) == 5
    is_right(collection)


def test_rows_that_are_not_the_stores_are_not_believed(
    copy: Path, opening: Open, caplog: pytest.LogCaptureFixture
) -> None:
    rows = the_file(copy, "raw", "i64")
    content = bytearray(rows.read_bytes())
    content[HEADER_BYTES + 8 * 20] = 5
    rows.write_bytes(content)
    is_right(opening(copy))
    assert "its rows do not rise" in caplog.text


def test_files_of_another_store_or_checkpoint_are_not_used(
    copy: Path, checkpoint: Path, tmp_path: Path, opening: Open, caplog: pytest.LogCaptureFixture
) -> None:
    is_right(opening(copy, write_checkpoint(tmp_path / "other", seed=8)))
    assert "projecting all vectors of model default again: vectors-learned." in caplog.text
    opening(tmp_path / "elsewhere")
    foreign = index(write_prepared(tmp_path / "foreign", seed=2), tmp_path / "data2", checkpoint)
    for name in files(copy):
        (copy / name).unlink()
    for name in files(foreign):
        shutil.copy(foreign / name, copy)
    is_right(opening(copy, checkpoint))
    assert "reading all vectors from the store: vectors-raw." in caplog.text


def test_a_store_that_was_put_back_is_read_anew(
    copy: Path, checkpoint: Path, tmp_path: Path, opening: Open
) -> None:
    backup = tmp_path / "backup.sqlite"
    collection = opening(copy, checkpoint)
    collection.store.back_up(backup)
    collection.upsert(chunks(5, 60))
    opening(tmp_path / "elsewhere")
    for name in ("store.sqlite-wal", "store.sqlite-shm"):
        (copy / name).unlink(missing_ok=True)
    shutil.copy(backup, copy / "store.sqlite")
    collection = opening(copy, checkpoint)
    assert collection.view.living == 48
    is_right(collection)


def test_files_that_are_in_use_no_more_are_deleted(
    copy: Path, checkpoint: Path, tmp_path: Path, opening: Open
) -> None:
    (copy / "vectors-raw.0123456789ab.f32").write_bytes(b"of a compaction that was cut off")
    collection = opening(copy, checkpoint)
    before = files(copy)
    assert len(before) == 5
    view = collection.view
    collection.limits = Limits(dead=5)
    collection.delete([f"delta:{row}" for row in range(18)])
    collection.build()
    assert collection.view.slots is not view.slots
    after = files(copy)
    assert len(after) == 5
    assert set(before) & set(after) == {"vectors-raw.json", "vectors-learned.json"}
    is_right(collection)
    np.testing.assert_array_equal(view.raw.vectors[:48], unit_rows(48, 1))  # still mapped
    state = load_state(write_checkpoint(tmp_path / "other", seed=8), DIMENSION)
    collection.set_model(collection.prepare_model("default", state, rerank=True))
    assert len(set(files(copy)) - set(after)) == 1
    assert len(files(copy)) == 5
    is_right(collection)
    collection.delete([chunk.id for chunk in whole_chunks(collection.store)])
    collection.limits = Limits(dead=0)
    collection.build()
    collection = opening(copy)
    assert collection.view.count == 0


def test_models_have_files_of_their_own(
    copy: Path, checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    more = write_checkpoint(tmp_path / "more", seed=9)
    settings = Settings(data=copy, checkpoint=checkpoint, more_checkpoints=f"b.c={more}")
    for start in range(3):
        caplog.clear()
        opened = open_collection(settings)
        is_right(opened.collection)
        if start == 0:
            opened.collection.build()
        opened.close()
    assert len(files(copy)) == 7
    assert [record.getMessage() for record in caplog.records] == []
    assert the_file(copy, "learned-b.c").exists()


def test_where_there_is_no_room_they_are_in_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    slots = VectorFiles(tmp_path, "s").new_slots(DIMENSION, 1 << 55)
    assert type(slots.raw) is type(slots.rows) is Growing
    assert "keeping the raw vectors in memory, there is no room" in caplog.text
    assert not files(tmp_path)
    slots.append(range(1, 6), chunks(5, 1), 1)
    np.testing.assert_array_equal(slots.raw.array[:5], unit_rows(5, 1))


class Full(Growing):
    """An array in a file on a disk that is full."""

    def make_room(self, more: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_refuses_a_write_before_it_is_stored(
    copy: Path, checkpoint: Path, opening: Open
) -> None:
    collection = opening(copy, checkpoint)
    model = collection._models["default"]
    model.projected, own = Full(np.float32, DIMENSION), model.projected
    with pytest.raises(StorageFullError, match="the disk of the vectors is full"):
        collection.upsert(chunks(1, 60))
    model.projected = own
    assert collection.view.living == collection.store.info().chunks == 48
    collection.upsert(chunks(2, 60))
    is_right(collection)


def test_a_build_leaves_nothing_behind(copy: Path, checkpoint: Path, opening: Open) -> None:
    for path in copy.glob("index-*"):
        path.unlink()
    collection = opening(copy, checkpoint)
    assert [space.indexed for space in collection.view.spaces] == [0, 0]
    collection.build()
    assert [space.indexed for space in collection.view.spaces] == [48, 48]
    assert not list(copy.glob("building-*"))


def test_indexes_share_their_memory(data: Path, checkpoint: Path, tmp_path: Path) -> None:
    exact = 2 * 48 * ROW_BYTES
    found = []
    for most in (exact, exact - 2, 100):
        folder = Path(shutil.copytree(data, tmp_path / str(most)))
        for path in folder.glob("index-*"):
            path.unlink()
        opened = open_collection(
            Settings(data=folder, checkpoint=checkpoint, index_memory_bytes=most)
        )
        if most == 100:
            with pytest.raises(ValueError, match="budget"):
                opened.collection.build()
            is_right(opened.collection)  # one by one
        else:
            opened.collection.build()
            indexes = [space.index for space in opened.collection.view.spaces]
            found.append({None if index is None else index.kind for index in indexes})
        opened.close()
    assert found[0] == {IndexKind.FLAT}
    assert found[1] & {IndexKind.FLAT, None} == set()
