"""``openapi``: write the OpenAPI document."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from service.commands import Subparsers


def register(subparsers: "Subparsers") -> None:
    """Add the command and its flags."""
    parser = subparsers.add_parser("openapi", help="write the OpenAPI document")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="file to write (default: standard output)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from service.app import create_app
    from service.settings import Settings

    # The document does not depend on settings; these are never used.
    app = create_app(Settings.model_construct(data=Path(), body_limit_bytes=1024))
    text = json.dumps(app.openapi(), indent=2) + "\n"
    if args.output is None:
        print(text, end="")
    else:
        args.output.write_text(text)
    return 0
