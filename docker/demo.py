"""Give a data folder the demo's chunks if nothing was ever written to it; else leave it as it is.

The first step of docker/compose.yaml. ``NEXTCHUNK_DEMO=false`` leaves an empty folder empty, too.
"""

import os
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

ARCHIVE = Path("/opt/demo.zip")


def was_written(store: Path) -> bool:
    """Whether there is a store that a write has ever changed, if only to delete all again."""
    if not store.exists():
        return False
    with closing(sqlite3.connect(store)) as db:
        try:
            rows = db.execute("SELECT value FROM meta WHERE key = 'version'").fetchall()
        except sqlite3.DatabaseError:
            return True  # Whatever it is, it is not ours to write to; the service will tell.
    return rows != [("0",)]


def main() -> None:
    """Import the archive, in place of this process, if there is nothing yet."""
    data = Path(os.environ["NEXTCHUNK_DATA"])
    if os.environ.get("NEXTCHUNK_DEMO", "true") not in ("true", "1"):
        sys.stdout.write("demo: not wanted\n")
    elif was_written(data / "store.sqlite"):
        sys.stdout.write(f"demo: {data} has been written to, nothing to do\n")
    else:
        sys.stdout.flush()
        os.execvp("python", ["python", "-m", "service", "import", str(ARCHIVE)])


if __name__ == "__main__":
    main()
