"""``key``: create, list and revoke API keys."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from service.commands import Subparsers
    from service.keys import Scope

SCOPES: tuple["Scope", ...] = ("read", "write", "admin")
MOST_DAYS = 36_500


def register(subparsers: "Subparsers") -> None:
    """Add the command, its three actions and their flags."""
    parser = subparsers.add_parser(
        "key",
        help="create, list and revoke API keys",
        description="Keep the file that 'serve --api-keys' reads. A running service sees each "
        "change within two seconds.",
    )
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    create = actions.add_parser(
        "create",
        help="add a key and print it, this once",
        description="Add a key to the file and print it on standard output. The file keeps only "
        "its hash: what is printed cannot be shown again.",
    )
    create.add_argument("--name", required=True, help="name of the key, as logs will show it")
    create.add_argument(
        "--scopes",
        type=_scopes,
        default=["read"],
        metavar="SCOPES",
        help="of read, write and admin, comma-separated (default read); "
        "write includes read, and admin both",
    )
    create.add_argument(
        "--expires-days", type=_days, metavar="N", help="days it is good for (default: for ever)"
    )
    create.set_defaults(run=_create)
    listing = actions.add_parser("list", help="list names, scopes and dates; no key is shown")
    listing.set_defaults(run=_list)
    revoke = actions.add_parser("revoke", help="take a key out of the file")
    revoke.add_argument("name", metavar="NAME", help="name of the key")
    revoke.set_defaults(run=_revoke)
    for action in (create, listing, revoke):
        action.add_argument("--file", type=Path, required=True, help="the key file")


def _create(args: argparse.Namespace) -> int:
    from datetime import timedelta

    from service.keys import KeyFileError, create_key

    lifetime = None if args.expires_days is None else timedelta(days=args.expires_days)
    try:
        secret = create_key(args.file, args.name, args.scopes, lifetime=lifetime)
    except KeyFileError as error:
        return _fail(error)
    print(secret)
    print(f"key: {args.name} is in {args.file}; it is shown this once", file=sys.stderr)
    return 0


def _list(args: argparse.Namespace) -> int:
    from datetime import UTC, datetime

    from service.keys import KeyFileError, read_keys

    try:
        ring = read_keys(args.file)
    except KeyFileError as error:
        return _fail(error)
    now = datetime.now(UTC)
    rows = [("name", "scopes", "created", "expires")]
    for key in ring.keys:
        expires = "never" if key.expires is None else f"{key.expires:%Y-%m-%d}"
        if key.expired(now):
            expires += " (expired)"
        rows.append((key.name, ",".join(key.scopes), f"{key.created:%Y-%m-%d}", expires))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())
    return 0


def _revoke(args: argparse.Namespace) -> int:
    from service.keys import KeyFileError, revoke_key

    try:
        revoke_key(args.file, args.name)
    except KeyFileError as error:
        return _fail(error)
    print(f"key: {args.name} is revoked", file=sys.stderr)
    return 0


def _fail(error: Exception) -> int:
    print(f"key: {error}", file=sys.stderr)
    return 1


def _scopes(text: str) -> list["Scope"]:
    asked = {part.strip() for part in text.split(",")}
    if not asked <= set(SCOPES):
        raise argparse.ArgumentTypeError(f"expected some of {', '.join(SCOPES)}, got {text!r}")
    return [scope for scope in SCOPES if scope in asked]


def _days(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MOST_DAYS:
        raise argparse.ArgumentTypeError(f"expected 1 to {MOST_DAYS}, got {text!r}")
    return int(text)
