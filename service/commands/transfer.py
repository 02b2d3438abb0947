"""``export``, ``import`` and ``backup``: a store to and from one file."""

import argparse
import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from service.settings import SettingsError, add_flags, settings_from

if TYPE_CHECKING:
    from service.archive import Archive, Watch
    from service.commands import Subparsers
    from service.rows import ChunkRow
    from service.store import Store

PROGRESS_EVERY_S = 1.0


class TransferError(ValueError):
    """A file has no place where it was asked for."""


def register(subparsers: "Subparsers") -> None:
    """Add the three commands and their flags."""
    export = subparsers.add_parser(
        "export",
        help="write all chunks into one portable file",
        description="Write all chunks, with texts, metadata and vectors, into one zip file. A "
        "service may run on the folder meanwhile.",
    )
    into = subparsers.add_parser(
        "import",
        help="write the chunks of an exported file into a data folder",
        description="Check an exported file, then write its chunks in one transaction; those with "
        "the same ids are replaced. No service may run on the folder meanwhile; the next one that "
        "does brings the indexes up to date.",
    )
    into.add_argument(
        "--replace",
        action="store_true",
        help="drop the chunks that are there first (default: keep those with other ids)",
    )
    backup = subparsers.add_parser(
        "backup",
        help="copy the store while it is used",
        description="Copy the store into one SQLite file and check the copy. A service may run on "
        "the folder meanwhile. To restore it, make a new folder, copy the file there as "
        "store.sqlite, and serve that; the indexes are built again.",
    )
    for name, parser, file, run in (
        ("export", export, "FILE.zip", _export),
        ("import", into, "FILE.zip", _import),
        ("backup", backup, "FILE.sqlite", _back_up),
    ):
        parser.add_argument("file", type=Path, metavar=file)
        add_flags(parser, ("data",))
        parser.set_defaults(run=_reporting(name, run))


def _reporting(
    name: str, run: Callable[[argparse.Namespace], None]
) -> Callable[[argparse.Namespace], int]:
    """Make what goes wrong one line, and an exit status."""

    def reporting(args: argparse.Namespace) -> int:
        from service.archive import ArchiveError
        from service.errors import StorageFullError
        from service.folder import FolderInUseError
        from service.rows import StoreError

        known = (SettingsError, TransferError, ArchiveError, FolderInUseError, StoreError)
        try:
            run(args)
        except (*known, StorageFullError, OSError) as error:
            print(f"{name}: {error}", file=sys.stderr)
            return 1
        return 0

    return reporting


def _export(args: argparse.Namespace) -> None:
    from service.archive import write_archive
    from service.store import STORE_FILE, Store

    data = settings_from(args).data
    _check_place(args.file, data)
    with contextlib.closing(Store(data / STORE_FILE, read_only=True)) as store:
        total = store.info().chunks
        info = write_archive(store, args.file, watching("export", total))
    print(f"export: version {info.version}, {info.chunks} chunks, in {args.file}")


def _back_up(args: argparse.Namespace) -> None:
    from service.archive import back_up
    from service.store import STORE_FILE, Store

    data = settings_from(args).data
    _check_place(args.file, data)
    with contextlib.closing(Store(data / STORE_FILE, read_only=True)) as store:
        info = back_up(store, args.file)
    print(f"backup: version {info.version}, {info.chunks} chunks, in {args.file}")


def _import(args: argparse.Namespace) -> None:
    from service.archive import Archive
    from service.folder import DataFolder
    from service.store import STORE_FILE, Store

    path = settings_from(args).data / STORE_FILE
    with Archive(args.file) as archive, DataFolder(path.parent):
        info = None
        if path.exists():
            with contextlib.closing(Store(path, read_only=True)) as store:
                info = store.info()
        watch = watching("import", archive.manifest.chunks)
        archive.check(None if args.replace else info, watch)
        if not archive.manifest.chunks:
            raise TransferError(f"{args.file}: holds no chunks; nothing was changed")
        with contextlib.closing(Store(path, create=True)) as store:
            told = _write(store, archive, watch, replace=args.replace)
            info = store.info()
    print(f"import: {told}; store version {info.version}, {info.chunks} chunks")


def _write(store: "Store", archive: "Archive", watch: "Watch", *, replace: bool) -> str:
    from service.store import Kind

    manifest = archive.manifest
    chunks = watch(archive.chunks(), "written")
    assert manifest.dimension is not None
    kind = Kind(dimension=manifest.dimension, embedding_model=manifest.embedding_model)
    if replace:
        store.replace(chunks, kind=kind, name=manifest.name, source="")
        return f"{manifest.chunks} chunks replace all that were there"
    replaced = store.merge(chunks, kind=kind, name=manifest.name)
    return f"{manifest.chunks} chunks, of which {replaced} replace others"


def _check_place(file: Path, data: Path) -> None:
    """Refuse to write among the service's own files, which a rename would replace."""
    if file.absolute().parent.resolve() == data.resolve():
        raise TransferError(f"{file}: expected a place outside the data folder")


def watching(command: str, total: int) -> "Watch":
    """Print how far it is, once a second."""

    def watch(chunks: "Iterator[ChunkRow]", what: str) -> "Iterator[ChunkRow]":
        last = time.monotonic()
        for number, chunk in enumerate(chunks):
            if time.monotonic() - last >= PROGRESS_EVERY_S:
                last = time.monotonic()
                print(f"{command}: {number} of {total} {what}", flush=True)
            yield chunk

    return watch
