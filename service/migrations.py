"""The schema of the store, as the list of steps that lead to it.

A store of any earlier version is brought up to date when it is opened, in one transaction: it is
either migrated or as it was. Each step is final once it has been released; a change is a new step.
"""

import sqlite3
import uuid

_FIRST = """
CREATE TABLE chunks (
    row INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    document_id TEXT NOT NULL,
    position INTEGER NOT NULL,
    text TEXT NOT NULL,
    metadata TEXT NOT NULL,
    vector BLOB NOT NULL
);
CREATE INDEX chunks_by_document ON chunks (document_id, position);
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
"""

# AUTOINCREMENT: a row number is never used twice, so that it stands for one content for ever, and
# a saved index can be compared with the store row by row.
_ROWS_FOR_EVER = """
ALTER TABLE chunks RENAME TO old_chunks;
DROP INDEX chunks_by_document;
CREATE TABLE chunks (
    row INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    document_id TEXT NOT NULL,
    position INTEGER NOT NULL,
    text TEXT NOT NULL,
    metadata TEXT NOT NULL,
    vector BLOB NOT NULL
);
INSERT INTO chunks SELECT row + 1, id, document_id, position, text, metadata, vector
    FROM old_chunks ORDER BY row;
DROP TABLE old_chunks;
CREATE INDEX chunks_by_document ON chunks (document_id, position);
CREATE TABLE idempotency (
    key TEXT PRIMARY KEY,
    request TEXT NOT NULL,
    answer TEXT NOT NULL,
    written_s REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX idempotency_by_age ON idempotency (written_s);
"""

# What a start must read of every chunk, together and in row order: beside texts and vectors it
# would be spread over a file many times larger. No statement asks by document.
_HEADS_TOGETHER = """
DROP INDEX chunks_by_document;
CREATE INDEX chunks_heads ON chunks (row, id, document_id, position, metadata);
"""

STEPS = (_FIRST, _ROWS_FOR_EVER, _HEADS_TOGETHER)
SCHEMA_VERSION = len(STEPS)


class SchemaError(ValueError):
    """The file is not a store, or one of a version that this program does not know."""


def migrate(db: sqlite3.Connection, *, create: bool) -> tuple[int, int]:
    """Bring a store up to date.

    Args:
        db: A connection in autocommit mode.
        create: Whether an empty file is to become a store.

    Returns:
        The schema version before and after.

    Raises:
        SchemaError: If it is of a later version, or not a store.
    """
    found = _version(db)
    if found == 0 and not create:
        raise SchemaError("expected a store, got an empty file")
    if found == SCHEMA_VERSION:
        return found, found
    db.execute("BEGIN IMMEDIATE")
    try:
        found = _version(db)  # another process may have been quicker
        for step in STEPS[found:]:
            for statement in step.split(";\n"):
                if statement.strip():
                    db.execute(statement)
        db.execute(
            "INSERT OR IGNORE INTO meta VALUES ('store_id', ?), ('version', '0')",
            (uuid.uuid4().hex,),
        )
        db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")
    return found, SCHEMA_VERSION


def readable_version(db: sqlite3.Connection) -> tuple[int, int]:
    """Tell the version of a store that is only to be read: twice, as ``migrate`` would.

    All versions so far keep ``chunks`` and ``meta`` such that the same statements read them.

    Raises:
        SchemaError: If it is of a later version, or not a store.
    """
    found = _version(db)
    if not found:
        raise SchemaError("expected a store, got an empty file")
    return found, found


def _version(db: sqlite3.Connection) -> int:
    found = int(db.execute("PRAGMA user_version").fetchone()[0])
    if found > SCHEMA_VERSION:
        raise SchemaError(
            f"expected schema version {SCHEMA_VERSION} or earlier, got {found}: "
            "a later nextchunk wrote it"
        )
    if found == 0 and db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        raise SchemaError("expected a store, got an SQLite file of something else")
    return found
