from pathlib import Path

import numpy as np

from benchmarks.epochs import (
    CONFIG,
    LOGGED,
    p8_epoch,
    some_documents,
    table,
    write_sessions,
)
from tests.synthetic import walks


def test_sessions_hold_every_window_once(tmp_path: Path) -> None:
    write_sessions(tmp_path / "chunks", [3, 7])
    head, *lines = (tmp_path / "chunks" / "chunks.train.inter").read_text().splitlines()
    assert head == "session_id:token\titem_id_list:token_seq\titem_id:token"
    rows = [line.split("\t") for line in lines]
    assert [int(session) for session, _, _ in rows] == list(range(8))
    assert [(items, following) for _, items, following in rows] == [
        ("1", "2"),
        ("1 2", "3"),
        ("4", "5"),
        ("4 5", "6"),
        ("4 5 6", "7"),
        ("4 5 6 7", "8"),
        ("4 5 6 7 8", "9"),
        ("5 6 7 8 9", "10"),
    ]
    for part in ("valid", "test"):
        assert (tmp_path / "chunks" / f"chunks.{part}.inter").read_text().startswith(head)


def test_documents_up_to_a_number_of_windows() -> None:
    documents = [np.zeros((count, 4), np.float32) for count in (3, 4, 5)]
    assert [len(some_documents(documents, windows)) for windows in (1, 2, 3, 5, 9, 99)] == [
        1, 1, 2, 2, 3, 3,
    ]  # fmt: skip
    assert len(some_documents(documents, None)) == 3


def test_an_epoch_is_timed(tmp_path: Path) -> None:
    assert 0.0 < p8_epoch(walks(0, 9), walks(1, 2), tmp_path, rerank=False) < 60.0


def test_the_table_names_every_turn() -> None:
    lines = table({"P8": [2.0, 4.0, 3.0], "CORE (trm), 128 wide": [6.0, 5.0, 9.0]}, 1200)
    assert lines[0].startswith("| an epoch of 1,200 windows |")
    assert lines[2] == "| P8 | 2.0, 4.0, 3.0 | 3.0 | 400 | 1.00 |"
    assert lines[3] == "| CORE (trm), 128 wide | 6.0, 5.0, 9.0 | 6.0 | 200 | 2.00 |"


def test_recboles_own_line_is_understood() -> None:
    line = "25 Nov 04:02    INFO  epoch 0 training [time: 21.94s, train loss: 61.7791]"
    found = LOGGED.search(line)
    assert found is not None
    assert found[1] == "21.94"
    text = CONFIG.format(window=5, kind="trm", width=128, inner=512, layers=2, heads=4)
    assert "load_col: {inter: [session_id, item_id_list, item_id]}" in text
    assert "embedding_size: 128" in text
