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
    add_flags(parser, ("data", "checkpoint"))
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; 0 if the data folder is up to date afterwards."""
    from service.errors import InvalidVectorError
    from service.prepared import PreparedError, open_prepared
    from service.store import StoreError

    try:
        settings = settings_from(args)
        prepared = open_prepared(args.dataset)
        settings.data.mkdir(parents=True, exist_ok=True)
        _fill(settings, prepared)
        _build(settings)
    except (SettingsError, PreparedError, StoreError, InvalidVectorError, OSError) as error:
        print(f"index: {error}", file=sys.stderr)
        return 1
    return 0


def _fill(settings: "Settings", prepared: "Prepared") -> None:
    from service.store import STORE_FILE, Store

    store = Store(settings.data / STORE_FILE, create=True)
    try:
        info = store.info()
        if info is not None and info.source == prepared.fingerprint:
            print(f"store: up to date, version {info.version}, {info.chunks} chunks")
            return
        store.replace(
            _with_progress(prepared),
            dimension=prepared.dimension,
            embedding_model=prepared.embedding_model,
            name=prepared.name,
            source=prepared.fingerprint,
        )
        info = store.info()
        assert info is not None
        print(f"store: written, version {info.version}, {info.chunks} chunks")
    finally:
        store.close()


def _build(settings: "Settings") -> None:
    from service.library import load_library, open_store
    from service.modes import load_state

    opened = open_store(settings.data)
    try:
        info = opened.info
        state = load_state(settings.checkpoint, info.dimension, info.embedding_model)
        if settings.checkpoint is not None and state.reason is not None:
            print(f"checkpoint: {state.reason}: {state.detail}")
        print(f"index: {info.chunks} chunks, building what is not up to date", flush=True)
        start = time.perf_counter()
        library = load_library(settings.data, opened, state)
        kinds = " and ".join(sorted(library.fingerprints))
        print(
            f"index: {kinds} ready, {library.corpus.raw_index.factory}, "
            f"{time.perf_counter() - start:.1f} s"
        )
    finally:
        opened.store.close()


def _with_progress(prepared: "Prepared") -> "Iterator[ChunkRow]":
    last = time.monotonic()
    for row, chunk in enumerate(prepared.rows()):
        if time.monotonic() - last >= PROGRESS_EVERY_S:
            last = time.monotonic()
            print(f"store: {row} of {prepared.chunks} chunks", flush=True)
        yield chunk
