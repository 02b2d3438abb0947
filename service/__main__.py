"""``python -m service``: index, serve, ask, keep keys, export, import and back up."""

import argparse
import sys

from service.commands import index, key, openapi, order, rank, serve, transfer

COMMANDS = (index, serve, rank, order, key, transfer, openapi)


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m service", description=__doc__)
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.register(subparsers)
    args = parser.parse_args(arguments)
    status: int = args.run(args)
    return status


if __name__ == "__main__":
    sys.exit(main())
