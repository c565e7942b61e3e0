"""What was found out about pictures by looking at them, kept by their content: embeddings, faces, further measures.

Everything here can be computed again from the originals, so the file lies in the project's cache and may be deleted.
What was found is a function of the picture's bytes and of `what` alone: a key that names the method and its version
(`faces-1`, `embedding-<model>`), so that a better method never meets the answers of an older one.
"""

import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing, suppress
from pathlib import Path

from lora_studio.core.errors import UserError

SCHEMA = (
    "CREATE TABLE IF NOT EXISTS looks (sha256 TEXT, what TEXT, data BLOB, PRIMARY KEY (sha256, what)) WITHOUT ROWID"
)


class Looks:
    """The findings of one project; several processes may use it at once. Holds no connection."""

    def __init__(self, folder: Path) -> None:
        """`folder` is the project's."""
        self.path = folder / "cache" / "looks.db"

    def get(self, what: str, contents: Iterable[str]) -> dict[str, bytes]:
        """The findings of kind `what` for those of the contents (SHA-256 of originals) that were looked at."""
        wanted = set(contents)
        if not self.path.exists() or not wanted:
            return {}
        with closing(self._connect()) as connection:
            rows = connection.execute("SELECT sha256, data FROM looks WHERE what = ?", (what,))
            return {sha256: data for sha256, data in rows if sha256 in wanted}

    @property
    def stamp(self) -> tuple[tuple[int, int], ...]:
        """Changes when something is put in."""
        found = []
        for path in (self.path, self.path.with_name(f"{self.path.name}-wal")):
            with suppress(FileNotFoundError):  # the second comes and goes with those who read
                found.append((path.stat().st_mtime_ns, path.stat().st_size))
        return tuple(pair for pair in found if pair[1])

    def known(self, what: str, contents: Iterable[str]) -> set[str]:
        """Those of the contents that have a finding of kind `what`."""
        wanted = set(contents)
        if not self.path.exists() or not wanted:
            return set()
        with closing(self._connect()) as connection:
            rows = connection.execute("SELECT sha256 FROM looks WHERE what = ?", (what,))
            return {sha256 for (sha256,) in rows if sha256 in wanted}

    def put(self, what: str, found: Mapping[str, bytes]) -> None:
        """Keep findings, all or none of them. Raises UserError when the disk is full."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with closing(self._connect()) as connection, connection:
                rows = [(sha256, what, data) for sha256, data in found.items()]
                connection.executemany("INSERT OR REPLACE INTO looks VALUES (?, ?, ?)", rows)
        except sqlite3.Error as error:
            raise UserError(
                f"What was found out about the pictures cannot be kept: {error}.", "Free some disk space, then repeat."
            ) from error

    def _connect(self) -> sqlite3.Connection:
        """A connection; a damaged file is begun anew, as all of it can be found out again."""
        for attempt in (1, 2):
            connection = sqlite3.connect(self.path, timeout=30)
            try:
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute("PRAGMA synchronous=NORMAL")
                connection.execute(SCHEMA)
                return connection
            except sqlite3.DatabaseError as error:
                connection.close()
                if attempt == 2 or isinstance(error, sqlite3.OperationalError):
                    raise
                for path in self.path.parent.glob("looks.db*"):
                    path.unlink(missing_ok=True)
        raise AssertionError("unreachable")
