"""``order``: ask a running service which of two chunks comes first."""

import argparse
import json
import sys
from typing import TYPE_CHECKING

from service.commands.rank import DEFAULT_URL

if TYPE_CHECKING:
    from service.commands import Subparsers


def register(subparsers: "Subparsers") -> None:
    """Add the command and its flags."""
    parser = subparsers.add_parser("order", help="ask which of two indexed chunks comes first")
    parser.add_argument("a", metavar="A_ID", help="a chunk")
    parser.add_argument("b", metavar="B_ID", help="another chunk")
    parser.add_argument("--url", default=DEFAULT_URL, help=f"default {DEFAULT_URL}")
    parser.add_argument("--json", action="store_true", help="print the answer as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; 1 if the service answered with a problem."""
    from service.client import Client
    from service.errors import ServiceError

    try:
        with Client(args.url) as client:
            after = client.order(a_id=args.a, b_id=args.b)
    except ServiceError as error:
        print(f"order: {error.code}: {error.detail}", file=sys.stderr)
        return 1
    if args.json:
        print(json.dumps({"p_b_after_a": after}))
    else:
        first, second = (args.a, args.b) if after >= 0.5 else (args.b, args.a)
        print(f"{first} comes before {second} with probability {max(after, 1 - after):.4f}")
    return 0
