"""``index``: fill a data folder from a prepared dataset."""

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from service.settings import SettingsError, add_flags, settings_from

if TYPE_CHECKING:
    from service.commands import Subparsers
    from service.prepared import Prepared
    from service.settings import Settings
    from service.store import ChunkRow

PROGRESS_EVERY_S = 1.0


def register(subparsers: "Subparsers") -> None:
    """Add the command and its flags."""
    parser = subparsers.add_parser(
        "index",
        help="fill a data folder from a prepared dataset",
        description="Write store and indexes from the folder that 'python -m training prepare' "
        "and 'embed' made. Running it again with the same data changes nothing.",
    )
    parser.add_argument("dataset", type=Path, metavar="DIR", help="prepared dataset folder")
    parser.add_argument(
        "--replace",
        action="store_true",
        help="drop chunks that were written over HTTP or imported (default: refuse)",
    )
    add_flags(parser, ("data", "checkpoint", "more_checkpoints", "index_memory_bytes"))
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; 0 if the data folder is up to date afterwards."""
    from service.errors import InvalidVectorError
    from service.folder import DataFolder, FolderInUseError
    from service.prepared import PreparedError, open_prepared
    from service.store import StoreError

    try:
        settings = settings_from(args)
        prepared = open_prepared(args.dataset)
        with DataFolder(settings.data):
            _fill(settings, prepared, replace=args.replace)
        _build(settings)
    except (
        SettingsError,
        PreparedError,
        FolderInUseError,
        StoreError,
        InvalidVectorError,
        OSError,
    ) as error:
        print(f"index: {error}", file=sys.stderr)
        return 1
    return 0


def _fill(settings: "Settings", prepared: "Prepared", *, replace: bool) -> None:
    from service.store import STORE_FILE, Kind, Store, StoreError

    store = Store(settings.data / STORE_FILE, create=True)
    try:
        info = store.info()
        if info.source == prepared.fingerprint:
            print(f"store: up to date, version {info.version}, {info.chunks} chunks")
            return
        if info.chunks and not info.source and not replace:
            raise StoreError(
                f"{settings.data}: holds {info.chunks} chunks that were written over HTTP or "
                "imported; --replace drops them"
            )
        store.replace(
            _with_progress(prepared),
            kind=Kind(dimension=prepared.dimension, embedding_model=prepared.embedding_model),
            name=prepared.name,
            source=prepared.fingerprint,
        )
        info = store.info()
        print(f"store: written, version {info.version}, {info.chunks} chunks")
    finally:
        store.close()


def _build(settings: "Settings") -> None:
    from service.opening import open_collection

    opened = open_collection(settings)
    try:
        view = opened.collection.view
        for name, served in view.models.items():
            if settings.checkpoint is not None and served.state.reason is not None:
                print(f"checkpoint {name}: {served.state.reason}: {served.state.detail}")
        if any(space.indexed < view.count for space in view.spaces):
            print(f"index: {view.living} chunks, building what is not up to date", flush=True)
            start = time.perf_counter()
            opened.collection.build()
            view = opened.collection.view
            print(f"index: built in {time.perf_counter() - start:.1f} s")
        kinds = "raw and learned" if len(view.spaces) > 1 else "raw"
        kind = None if view.raw.index is None else view.raw.index.kind.value
        print(f"index: {kinds} ready, {kind}")
    finally:
        opened.close()


def _with_progress(prepared: "Prepared") -> "Iterator[ChunkRow]":
    last = time.monotonic()
    for row, chunk in enumerate(prepared.rows()):
        if time.monotonic() - last >= PROGRESS_EVERY_S:
            last = time.monotonic()
            print(f"store: {row} of {prepared.chunks} chunks", flush=True)
        yield chunk
