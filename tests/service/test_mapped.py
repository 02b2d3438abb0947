"""Arrays in files: what is appended stays, whoever holds them and however often they grow."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from service.mapped import HEADER_BYTES, FileMismatchError, Growing, Mapped

ABOUT = {"kind": "test"}
WIDTH = 5
BEYOND_ANY_DISK = 1 << 55


def rows(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, WIDTH)).astype(np.float32)


@pytest.fixture
def mapped(tmp_path: Path) -> Iterator[Mapped]:
    array = Mapped(tmp_path / "rows", ABOUT, "<f4", WIDTH)
    yield array
    array.close()


@pytest.mark.parametrize("in_file", [False, True])
def test_who_holds_it_sees_what_was_appended_before_and_after(
    mapped: Mapped, in_file: bool
) -> None:
    growing = mapped if in_file else Growing(np.float32, WIDTH)
    expected_ND, held = rows(9000), []
    for start in range(0, 9000, 300):
        growing.extend(expected_ND[start : start + 300])
        held.append((growing.size, growing.array))
    assert len({id(array) for _, array in held}) < 10
    for size, array in held:
        np.testing.assert_array_equal(array[:size], expected_ND[:size])
    assert growing.size == 9000


def test_numbers_are_kept_as_well(tmp_path: Path) -> None:
    growing = Mapped(tmp_path / "numbers", ABOUT, "<i8")
    growing.extend(np.arange(5000))
    growing.extend(np.empty(0, np.int64))
    growing.extend(np.array([-(2**62)]))
    assert growing.array[:5001].tolist() == [*range(5000), -(2**62)]


def test_nobody_writes_through_it(mapped: Mapped) -> None:
    mapped.extend(rows(3))
    with pytest.raises(ValueError, match="read-only"):
        mapped.array[0] = 0


def test_it_is_opened_as_far_as_it_is_known(tmp_path: Path, mapped: Mapped) -> None:
    mapped.extend(rows(2000))
    mapped.flush()
    again = Mapped(mapped.path, ABOUT, "<f4", WIDTH, size=1500)
    assert again.size == 1500
    np.testing.assert_array_equal(again.array[:1500], rows(2000)[:1500])
    again.extend(rows(700, seed=1))
    np.testing.assert_array_equal(again.array[1500:2200], rows(700, seed=1))
    again.close()


def test_room_that_the_disk_has_not_changes_nothing(mapped: Mapped) -> None:
    mapped.extend(rows(10))
    before = mapped.array
    with pytest.raises(OSError, match=r"\[Errno"):
        mapped.reserve(BEYOND_ANY_DISK)
    with pytest.raises(OSError, match=r"\[Errno"):
        mapped.make_room(BEYOND_ANY_DISK)
    assert (mapped.size, mapped.array is before) == (10, True)
    mapped.extend(rows(10, seed=1))
    np.testing.assert_array_equal(mapped.array[10:20], rows(10, seed=1))


def test_a_file_that_is_removed_is_still_read(mapped: Mapped) -> None:
    mapped.extend(rows(10))
    array = mapped.array
    mapped.remove()
    mapped.remove()
    assert not mapped.path.exists()
    np.testing.assert_array_equal(array[:10], rows(10))
    with pytest.raises(OSError, match="Bad file descriptor"):
        mapped.extend(rows(1))


def test_its_descriptor_goes_with_it(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for number in range(20):
        Mapped(tmp_path / str(number), ABOUT, "<f4", WIDTH).extend(rows(3))
    assert len(os.listdir("/proc/self/fd")) == before


def test_another_file_is_told(tmp_path: Path, mapped: Mapped) -> None:
    mapped.extend(rows(100))

    def opened(about: dict[str, str] = ABOUT, width: int = WIDTH, size: int = 100) -> None:
        Mapped(mapped.path, about, "<f4", width, size=size).close()

    opened()
    with pytest.raises(FileMismatchError, match="another file, or damaged"):
        opened({"kind": "other"})
    with pytest.raises(FileMismatchError, match="another file, or damaged"):
        opened(width=WIDTH + 1)
    with pytest.raises(FileMismatchError, match="expected 2004096 bytes or more, got "):
        opened(size=100_000)
    with mapped.path.open("r+b") as file:
        file.truncate(HEADER_BYTES + 1)
    with pytest.raises(FileMismatchError, match=r"expected 6096 bytes or more, got 4097"):
        opened()
    mapped.path.unlink()
    with pytest.raises(FileMismatchError, match="there is none"):
        opened()
