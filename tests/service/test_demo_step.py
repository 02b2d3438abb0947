"""What decides whether a first start brings the demo's chunks (docker/demo.py)."""

import importlib.util
from contextlib import closing
from pathlib import Path

from service.rows import ChunkRow
from service.store import Kind, Store

from .conftest import unit_rows

_SPEC = importlib.util.spec_from_file_location(
    "demo_step", Path(__file__).parents[2] / "docker" / "demo.py"
)
assert _SPEC is not None
assert _SPEC.loader is not None
demo = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(demo)


def test_only_what_was_never_written_to_gets_the_demo(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    assert not demo.was_written(path)
    with closing(Store(path, create=True)) as store:
        assert not demo.was_written(path)
        row = ChunkRow(
            id="a:0",
            document_id="a",
            position=0,
            text="text",
            metadata={},
            vector_D=unit_rows(1, 1)[0],
        )
        store.merge([row], kind=Kind(dimension=16, embedding_model="m"), name="n")
    assert demo.was_written(path)


def test_what_is_no_store_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    path.write_text("not a database, but somebody's file")
    assert demo.was_written(path)
