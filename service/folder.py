"""The data folder, which one process uses at a time."""

import fcntl
import os
from pathlib import Path
from types import TracebackType

LOCK_FILE = "lock"


class FolderInUseError(ValueError):
    """Another process uses the data folder, or it cannot be written to."""


class DataFolder:
    """Holds a data folder for this process until it is closed, or the process ends.

    Args:
        path: The folder; made if it is not there.

    Raises:
        FolderInUseError: If another process holds it, or it cannot be written to.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(path / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise FolderInUseError(f"{path}: not writable: {error.strerror}") from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._descriptor)
            raise FolderInUseError(
                f"{path}: in use by another nextchunk process; stop that first"
            ) from error

    def close(self) -> None:
        """Let go of it."""
        os.close(self._descriptor)

    def __enter__(self) -> "DataFolder":
        """Hold."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let go."""
        self.close()
