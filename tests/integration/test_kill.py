"""A service that is killed while it is written to loses nothing; tests/fault has more of it."""

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np

from service.store import STORE_FILE, ChunkRow
from tests.fault.kill import CHECKPOINT, Kills, summary
from tests.synthetic import unit_rows

COUNT, DIMENSION = 1500, 384


def chunks(generator: np.random.Generator) -> list[ChunkRow]:
    return [
        ChunkRow(
            id=f"d/{row // 10}:{row % 10}",
            document_id=f"d/{row // 10}",
            position=row % 10,
            text=f"Größe {row}",
            metadata={"title": "T"},
            vector_D=vector_D,
        )
        for row, vector_D in enumerate(unit_rows(generator, COUNT, DIMENSION))
    ]


def test_nothing_is_lost_doubled_or_half_written(
    tmp_path: Path, generator: np.random.Generator
) -> None:
    kills = Kills(chunks(generator), tmp_path, checkpoint=CHECKPOINT)
    report = kills.run(3, latest_s=0.8)
    assert report.ok, report.troubles[:3]
    assert report.chunks == COUNT
    assert report.batches > 5
    assert "lost 0, duplicated 0, revived 0, half-written batches 0, not found 0" in summary(report)
    # It would have been seen.
    with closing(sqlite3.connect(kills.data / STORE_FILE)) as db:
        db.execute("DELETE FROM chunks WHERE id = 'd/7:3'")
        db.execute("UPDATE chunks SET text = 'other' WHERE id = 'd/7:4'")
        db.commit()
    process = kills.start()
    try:
        kills.look(process, "spoilt")
    finally:
        process.end()
    assert (report.lost, report.duplicated) == (2, 0)
    assert any("d/7:4: of content that was never sent" in trouble for trouble in report.troubles)
