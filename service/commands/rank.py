"""``rank``: ask a running service which chunks come next."""

import argparse
import json
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from service.client import Answer
    from service.commands import Subparsers

DEFAULT_URL = "http://127.0.0.1:8000"
TEXT_SHOWN = 72


def register(subparsers: "Subparsers") -> None:
    """Add the command and its flags."""
    parser = subparsers.add_parser("rank", help="ask a running service which chunks come next")
    parser.add_argument(
        "--ids", nargs="+", required=True, metavar="ID", help="chunks read last, oldest first"
    )
    parser.add_argument("--top-k", type=int, default=10, metavar="K", help="results (default 10)")
    parser.add_argument(
        "--mode", choices=("auto", "p8", "retrieval"), default="auto", help="default auto"
    )
    parser.add_argument(
        "--documents", nargs="+", metavar="ID", help="only chunks of these (default: all)"
    )
    parser.add_argument("--url", default=DEFAULT_URL, help=f"default {DEFAULT_URL}")
    parser.add_argument("--json", action="store_true", help="print the answer as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; 1 if the service answered with a problem."""
    from service.client import Client
    from service.errors import ServiceError

    try:
        with Client(args.url) as client:
            answer = client.rank(
                context_ids=args.ids,
                document_ids=args.documents,
                top_k=args.top_k,
                mode=args.mode,
            )
    except ServiceError as error:
        print(f"rank: {error.code}: {error.detail}", file=sys.stderr)
        return 1
    print(json.dumps(answer, indent=2, ensure_ascii=False) if args.json else _table(answer))
    return 0


def _table(answer: "Answer") -> str:
    model, reason = answer["model"], answer["fallback_reason"]
    because = f" ({reason})" if reason else ""
    lines = [f"mode {answer['mode']}{because}, method {model['method']}, space {model['space']}"]
    width = max((len(str(result["id"])) for result in answer["results"]), default=2)
    for place, result in enumerate(answer["results"], 1):
        text = " ".join((result["text"] or "").split())
        shown = text if len(text) <= TEXT_SHOWN else text[: TEXT_SHOWN - 1] + "…"
        lines.append(f"{place:3}. {result['score']:+.4f}  {result['id']!s:{width}}  {shown}")
    return "\n".join(lines)
