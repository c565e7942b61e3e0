"""The SQLite file of a project: schema, migrations, transactions. Several processes may use it at once (WAL)."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lora_studio.core.errors import UserError

MIGRATIONS = (
    """
    CREATE TABLE images (
        id INTEGER PRIMARY KEY,
        sha256 TEXT NOT NULL UNIQUE,
        name TEXT NOT NULL,
        extension TEXT NOT NULL,
        width INTEGER NOT NULL,
        height INTEGER NOT NULL,
        size INTEGER NOT NULL,
        decision TEXT NOT NULL DEFAULT 'new',
        reason TEXT NOT NULL DEFAULT '',
        caption TEXT NOT NULL DEFAULT '',
        crop TEXT,
        repeats INTEGER NOT NULL DEFAULT 1,
        sharpness REAL NOT NULL DEFAULT 0,
        phash TEXT NOT NULL DEFAULT '0',
        signature BLOB NOT NULL DEFAULT x'',
        source TEXT NOT NULL DEFAULT '',
        added REAL NOT NULL
    );
    CREATE TABLE journal (
        id INTEGER PRIMARY KEY,
        label TEXT NOT NULL,
        time REAL NOT NULL,
        undone INTEGER NOT NULL DEFAULT 0,
        changes TEXT NOT NULL
    );
    CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL);
    INSERT INTO meta VALUES ('revision', 0);
    """,
    """
    ALTER TABLE images ADD COLUMN more_crops TEXT;
    ALTER TABLE images ADD COLUMN mask TEXT NOT NULL DEFAULT '';
    ALTER TABLE images ADD COLUMN url TEXT NOT NULL DEFAULT '';
    ALTER TABLE images ADD COLUMN author TEXT NOT NULL DEFAULT '';
    ALTER TABLE images ADD COLUMN licence TEXT NOT NULL DEFAULT '';
    ALTER TABLE images ADD COLUMN consent TEXT NOT NULL DEFAULT '';
    ALTER TABLE images ADD COLUMN origin TEXT NOT NULL DEFAULT '';
    CREATE TABLE quarantine (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL,
        source TEXT NOT NULL,
        reason TEXT NOT NULL,
        time REAL NOT NULL,
        UNIQUE (name, source)
    );
    """,
    """
    ALTER TABLE images ADD COLUMN prose TEXT NOT NULL DEFAULT '';
    """,
)


@contextmanager
def transaction(path: Path, write: bool = True) -> Iterator[sqlite3.Connection]:
    """A connection inside one transaction: committed at the end, rolled back on any error. Rows answer by name.

    Raises UserError when the file is no project database, is newer than this program, or the disk is full.
    """
    connection = None
    try:
        connection = sqlite3.connect(path, timeout=30, isolation_level=None)
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL" if write else "PRAGMA query_only=ON")
        connection.execute("BEGIN IMMEDIATE" if write else "BEGIN")
        yield connection
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        raise UserError(
            f"The project's database {path.parent.name}/{path.name} cannot be used: {error}.",
            "Free disk space or close other programs that hold it; a broken file can be put back from a backup.",
        ) from error
    finally:
        if connection is not None:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            connection.close()


def migrate(path: Path) -> None:
    """Bring the file to the newest schema; each step is one transaction. Raises UserError when it is newer."""
    with transaction(path) as connection:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > len(MIGRATIONS):
            raise UserError(
                f"{path.parent.name} was written by a newer LoRA Studio (schema {version}).",
                "Update the program to open it.",
            )
        for number in range(version, len(MIGRATIONS)):
            for statement in MIGRATIONS[number].split(";"):
                if statement.strip():
                    connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {number + 1}")
