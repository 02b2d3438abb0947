"""Export and backup beside a service that is written to."""

import subprocess
import sys
import threading
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from service.store import STORE_FILE

from .conftest import live, unit_rows
from .test_archive import run, whole


def test_export_and_backup_beside_a_service_that_is_written_to(tmp_path: Path) -> None:
    data, file, copy = tmp_path / "data", tmp_path / "a.zip", tmp_path / "b.sqlite"
    written, enough, done = count(), threading.Event(), threading.Event()
    vectors_ND = unit_rows(5, 1)

    def put(service: Any) -> None:
        # Each request writes the same five chunks again, and a new one.
        while not done.is_set():
            number = next(written)
            names = [*(f"same:{place}" for place in range(5)), f"new:{number}"]
            chunks = [
                {"id": name, "document_id": "d", "position": number, "text": f"{number}"}
                | {"vector": np.roll(vectors_ND[place % 5], number).tolist()}
                for place, name in enumerate(names)
            ]
            assert service.http.put("/v1/chunks", json={"chunks": chunks}).status_code == 200
            if number == 20:
                enough.set()

    with live(data) as service:
        writer = threading.Thread(target=put, args=(service,))
        writer.start()
        try:
            assert enough.wait(20)
            commands = [
                subprocess.Popen(
                    [sys.executable, "-m", "service", *words, "--data", str(data)],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
                for words in (["export", str(file)], ["backup", str(copy)])
            ]
            told = [command.communicate(timeout=60)[0] for command in commands]
            assert [command.returncode for command in commands] == [0, 0], told
        finally:
            done.set()
            writer.join()
        assert run("import", data, file) == 1  # while it runs
    assert run("import", tmp_path / "imported", file) == 0
    (tmp_path / "restored").mkdir()
    copy.rename(tmp_path / "restored" / STORE_FILE)
    for folder in (tmp_path / "imported", tmp_path / "restored"):
        found = {one[0]: one for one in whole(folder)}
        last = max(one[2] for one in found.values())
        assert 20 <= last < next(written)
        assert found.keys() == {f"same:{n}" for n in range(5)} | {
            f"new:{n}" for n in range(last + 1)
        }
        for place in range(5):  # of one and the same request
            _, _, position, text, _, vector = found[f"same:{place}"]
            assert (position, text) == (last, str(last))
            assert vector == np.roll(vectors_ND[place], last).tobytes()
