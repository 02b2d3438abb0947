"""Turn the host's pip settings into one file for a build container.

Reads ``pip config list`` from stdin, writes a pip.conf to the path that is given, and prints the
host's files and folders that it names, one a line: they have to be mounted beside it.
"""

import ast
import os
import sys
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

KEPT = ("cert", "index-url", "extra-index-url", "find-links", "no-index", "trusted-host")


def settings(lines: list[str]) -> dict[str, str]:
    """Settings that say where packages come from; the environment wins over files."""
    found: dict[str, str] = {}
    for line in sorted(lines, key=lambda one: one.startswith(":env:")):
        name, _, value = line.partition("=")
        key = name.rpartition(".")[2]
        if key in KEPT and name.startswith((":env:", "global.", "install.")):
            found[key] = str(ast.literal_eval(value))
    for variable in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"):
        if os.environ.get(variable):
            found.setdefault("cert", os.environ[variable])
    return found


def paths(values: list[str]) -> list[str]:
    """What exists on this machine of the paths and file: URLs among some values."""
    places = [
        # An index links to files beside it, so its parent is needed.
        Path(url2pathname(urlsplit(word).path)).parent if word.startswith("file:") else Path(word)
        for word in " ".join(values).split()
    ]
    return sorted({str(one) for one in places if one.is_absolute() and one.exists()})


def main(target: Path) -> str:
    """Write the file and return what to mount."""
    found = settings(sys.stdin.read().splitlines())
    lines = ["[global]", *(f"{key} = {' '.join(value.split())}" for key, value in found.items())]
    target.write_text("\n".join(lines) + "\n")
    return "".join(f"{path}\n" for path in paths(list(found.values())))


if __name__ == "__main__":
    sys.stdout.write(main(Path(sys.argv[1])))
