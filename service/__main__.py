"""``python -m service``: index, serve, ask, keep keys, export, import, back up and migrate."""

import argparse
import os
import signal
import sys
from types import FrameType

from service.commands import index, key, migrate, openapi, order, rank, serve, transfer

COMMANDS = (index, serve, rank, order, key, transfer, migrate, openapi)


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m service", description=__doc__)
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.register(subparsers)
    args = parser.parse_args(arguments)
    as_first_process()
    status: int = args.run(args)
    return status


def as_first_process(number: int = 1) -> None:
    """Do what is asked of the first process of a container, if this is it.

    Args:
        number: Of the process that is the first.
    """
    if os.getpid() != number:
        return
    # Without a handler, a first process is not ended by any signal but SIGKILL.
    signal.signal(signal.SIGTERM, _end)
    # Orphans of whatever else is run in the container become its children. It starts none of its
    # own, so the kernel may forget them all when they end.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)


def _end(_number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
