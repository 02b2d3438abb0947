"""``serve``: answer over HTTP until told to stop."""

import argparse
import gc
import os
import signal
import sys
from types import FrameType
from typing import TYPE_CHECKING

from service.settings import SettingsError, add_flags, settings_from

if TYPE_CHECKING:
    from service.commands import Subparsers


def register(subparsers: "Subparsers") -> None:
    """Add the command and its flags, one for each setting."""
    parser = subparsers.add_parser(
        "serve",
        help="answer over HTTP",
        description="Answer over HTTP until told to stop. Log lines go to stderr as JSON.",
    )
    add_flags(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command until a signal stops it."""
    try:
        settings = settings_from(args)
    except SettingsError as error:
        print(f"serve: {error}", file=sys.stderr)
        return 2
    # As the first process of a container, a signal without a handler is lost; uvicorn's own comes
    # only after imports that take a second, and hands the signal on to this one when it is done.
    signal.signal(signal.SIGTERM, _stop)
    # numpy's matrix products know nothing of the other threads; it reads this when it is loaded.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from service.logs import configure
    from service.server import build_server

    # A body of many small lists would else be walked over and over while it is parsed.
    gc.set_threshold(50_000, 20, 100)
    try:
        server = build_server(settings, announce=_say)
    except SettingsError as error:
        print(f"serve: {error}", file=sys.stderr)
        return 2
    configure(settings.log_level)
    server.run()
    return 0 if server.started else 1


def _stop(_number: int, _frame: FrameType | None) -> None:
    sys.exit(0)


def _say(line: str) -> None:
    # In one piece, for two threads have something to say; print writes the line's end by itself.
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
