"""``python -m training``: from documents to a checkpoint, one command a step."""

import argparse
import importlib
import sys
from collections.abc import Sequence
from types import TracebackType

from training.world import ElsewhereError, LostProcessError, process_name, refuse_company

# The commands, in the order in which help shows them: modules of training.commands.
COMMANDS = (
    "prepare",
    "embed",
    "merge_shards",
    "subset",
    "parity",
    "train",
    "pilot",
    "evaluate",
    "belonging",
    "gate",
    "ladder",
)

_OURS = ("models", "training")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Arguments after the program's name; those of the process if None.

    Returns:
        Exit code: that of the command, 2 if the caller is at fault, 130 after Ctrl-C.
    """
    arguments = build_parser().parse_args(argv)
    try:
        if arguments.command != "train":
            refuse_company(arguments.command)
        return int(arguments.run(arguments))
    except ElsewhereError:
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in _OURS:
            raise
        _complain(f'{error.name} is not installed; pip install "nextchunk[training,text]"')
    except (OSError, LostProcessError) as error:
        _complain(str(error))
    except ValueError as error:
        if not _raised_by_us(error.__traceback__):
            raise
        _complain(str(error))
    return 2


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in COMMANDS:
        importlib.import_module(f"training.commands.{name}").add_parser(subparsers)
    return parser


def _complain(message: str) -> None:
    print(f"error: {process_name()}{message}", file=sys.stderr)


def _raised_by_us(trace: TracebackType | None) -> bool:
    """Whether our own code raised: a ValueError from within a library is a bug, shown as one."""
    module = ""
    while trace is not None:
        module = str(trace.tb_frame.f_globals.get("__name__", ""))
        trace = trace.tb_next
    return module.partition(".")[0] in (*_OURS, "__main__")


if __name__ == "__main__":
    sys.exit(main())
