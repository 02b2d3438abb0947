"""Print what pyproject.toml requires, as pip reads it: ``build``, ``serve`` or ``torch``.

With this, the image's dependency layer survives edits of the source and of the tools' settings.
"""

import re
import sys
import tomllib
from pathlib import Path


def main(kind: str) -> str:
    """Return one requirement a line."""
    project = tomllib.loads(Path("pyproject.toml").read_text())
    if kind == "build":
        return "\n".join(project["build-system"]["requires"])
    serve: list[str] = project["project"]["dependencies"]
    if kind == "serve":
        return "\n".join(serve)
    found = [one for one in serve if re.match(r"torch(?![\w.-])", one)]
    if kind != "torch" or not found:
        raise SystemExit(f"requirements.py: expected build, serve or torch, got {kind!r}")
    return found[0]


if __name__ == "__main__":
    sys.stdout.write(main(sys.argv[1]) + "\n")
