"""``migrate``: all chunks from a data folder into Milvus, or back."""

import argparse
import contextlib
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from service.commands.transfer import watching
from service.settings import SettingsError, add_flags, settings_from

if TYPE_CHECKING:
    from service.commands import Subparsers
    from service.milvus.moving import Source, Target
    from service.settings import Settings

PLACE = "a data folder, or a Milvus as --index-url of serve names it"


class MigrateError(ValueError):
    """There is nothing to be moved between those two places, or nothing to do it with."""


def register(subparsers: "Subparsers") -> None:
    """Add the command and its flags."""
    parser = subparsers.add_parser(
        "migrate",
        help="move all chunks from a data folder into Milvus, or back",
        description="Write all chunks of one place, with texts, metadata and vectors, into "
        "another; the first is left as it is. A service may run on a folder that is read, and "
        "none on one that is written; to a Milvus nothing else may be written meanwhile. "
        "Idempotency keys are not moved, and indexes are built anew by the service that starts "
        "there. If it was cut off, running it again with --merge completes it.",
    )
    parser.add_argument("--from", dest="source", required=True, metavar="PLACE", help=PLACE)
    parser.add_argument("--to", dest="target", required=True, metavar="PLACE", help="the same")
    parser.add_argument(
        "--merge",
        action="store_true",
        help="keep the chunks that are there, and replace those with the same ids (default: "
        "refuse if there are any)",
    )
    add_flags(parser, ("index_token", "index_timeout_s"))
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; 0 if all chunks are there afterwards."""
    from service.errors import IndexUnavailableError, StorageFullError
    from service.folder import FolderInUseError
    from service.rows import StoreError

    try:
        from service.milvus.link import told
        from service.milvus.moving import MoveError
    except ModuleNotFoundError as error:
        print(f"migrate: needs {error.name}: pip install 'nextchunk[milvus]'", file=sys.stderr)
        return 1
    known = (SettingsError, MigrateError, MoveError, FolderInUseError, StoreError)
    try:
        _migrate(args)
    except IndexUnavailableError as error:
        cause = f" ({told(error.__cause__)})" if error.__cause__ else ""
        print(f"migrate: {error}{cause}", file=sys.stderr)
        return 1
    except (*known, StorageFullError, OSError) as error:
        print(f"migrate: {error}", file=sys.stderr)
        return 1
    return 0


def _migrate(args: argparse.Namespace) -> None:
    from service.milvus import moving

    start_s = time.monotonic()
    from_index, to_index = (_is_index(place) for place in (args.source, args.target))
    if not from_index and not to_index:
        raise MigrateError("both are folders: 'export' and 'import' carry chunks between those")
    source_settings = _settings(args, "--from", args.source) if from_index else None
    target_settings = _settings(args, "--to", args.target) if to_index else None
    if source_settings and target_settings and _same(source_settings, target_settings):
        raise MigrateError(f"{args.target}: is where they are already")
    with contextlib.ExitStack() as opened:
        source: Source = opened.enter_context(
            moving.milvus_source(source_settings)
            if source_settings
            else moving.folder_source(Path(args.source))
        )
        target: Target = opened.enter_context(
            moving.milvus_target(target_settings)
            if target_settings
            else moving.folder_target(Path(args.target))
        )
        watch = watching("migrate", source.holding.chunks)
        moved = moving.move(source, target, merge=args.merge, watch=watch)
        print(
            f"migrate: {moved.chunks} chunks, of which {moved.replaced} replace others, in "
            f"{time.monotonic() - start_s:.1f} s; {target.shown} now holds {moved.held}"
        )
    print(f"migrate: {_then(to_index)}")


def _then(to_index: bool) -> str:
    if to_index:
        return "the first service that starts there with a checkpoint makes its learned vectors"
    return "the next service that starts on the folder builds its indexes"


def _is_index(place: str) -> bool:
    return "://" in place or place.startswith("milvus-lite:")


def _settings(args: argparse.Namespace, flag: str, url: str) -> "Settings":
    from service.milvus.place import place_of

    try:
        place_of(url)
    except SettingsError as error:
        raise MigrateError(f"{flag}: {str(error).partition(': ')[2]}") from error
    of_index = {"data": Path(), "index_url": url, "index_consistency": "strong"}
    return settings_from(argparse.Namespace(**{**vars(args), **of_index}))


def _same(one: "Settings", other: "Settings") -> bool:
    from service.milvus.place import LITE, place_of

    def of(settings: "Settings") -> str:
        place = place_of(settings.index_url)
        return str(Path(place.uri).resolve()) if place.shown.startswith(LITE) else place.shown

    return of(one) == of(other)
