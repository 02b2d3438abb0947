"""Writes that a client has named, so that sending one again does not write again."""

import json
import sqlite3
import time
from dataclasses import dataclass

from service.errors import IdempotencyKeyReusedError

IDEMPOTENCY_S = 24 * 3600.0


@dataclass(frozen=True, kw_only=True)
class IdempotencyKey:
    """A client's own name for one write, so that sending it again does not write again."""

    key: str
    request: str
    """Digest of what was asked; the same key with another one is a mistake."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """A committed change."""

    version: int
    rows: list[int]
    """Row numbers of the chunks that were written, in their order."""
    deleted: int
    """Chunks that were deleted by id."""
    replayed: bool
    """Whether the idempotency key had been seen, so that nothing was written now."""
    count: int
    """Chunks that were upserted or deleted, then if it is a replay."""


def replay(db: sqlite3.Connection, key: IdempotencyKey) -> Written | None:
    """Find what a key did before; None if it is new.

    Raises:
        IdempotencyKeyReusedError: If it came with another request before.
    """
    oldest_s = time.time() - IDEMPOTENCY_S
    db.execute("DELETE FROM idempotency WHERE written_s < ?", (oldest_s,))
    found = db.execute("SELECT request, answer FROM idempotency WHERE key = ?", (key.key,))
    earlier = found.fetchone()
    if earlier is None:
        return None
    if earlier[0] != key.request:
        raise IdempotencyKeyReusedError(
            "Idempotency-Key", "a new key for a new request", "one that came with another request"
        )
    answer = json.loads(earlier[1])
    return Written(rows=[], deleted=0, replayed=True, **answer)


def record(db: sqlite3.Connection, key: IdempotencyKey, written: Written) -> None:
    """Remember what a key did."""
    answer = json.dumps({"version": written.version, "count": written.count})
    db.execute(
        "INSERT INTO idempotency VALUES (?, ?, ?, ?)", (key.key, key.request, answer, time.time())
    )
