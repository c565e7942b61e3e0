"""Pictures dropped on the page: they arrive in chunks, under a batch of their own, and are imported from there."""

import secrets
import shutil
import time
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse

from lora_studio.core.errors import UserError
from lora_studio.core.files import inside

MAX_FILE = 4 * 2**30
MAX_BATCH_FILES = 50_000
KEEP_SECONDS = 24 * 3600


class Uploads:
    """The folder where dropped files wait for their import."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._counts: dict[str, int] = {}

    def begin(self) -> str:
        """A new batch; returns its unguessable id."""
        batch = secrets.token_hex(12)
        (self.folder / batch).mkdir(parents=True)
        return batch

    def path(self, batch: str) -> Path:
        """Folder of a batch. Raises UserError for an unknown one."""
        folder = self.folder / batch
        if not (batch.isalnum() and folder.is_dir()):
            raise UserError("These uploaded files are not here any more.", "Drop them again.")
        return folder

    def write(self, batch: str, name: str, offset: int, data: bytes) -> int:
        """Put a chunk at `offset` of a file; returns how many bytes of it are here, which is where to go on.

        A chunk may come twice, also late: what is here is never cut off. One that would leave a gap is not written.
        Raises UserError for a name that cannot be, a file or batch that is too large, and a disk that is full.
        """
        folder = self.path(batch)
        path = inside(folder, name.lstrip("/"))
        if path == folder.resolve() or len(name) > 1000 or any(len(part.encode()) > 250 for part in path.parts):
            raise UserError(f"{name[:80]} cannot be a file name.", "Rename the file and drop it again.")
        try:
            new = not path.exists()
            size = 0 if new else path.stat().st_size
            if offset > size:
                return size
            if offset + len(data) > MAX_FILE:
                raise UserError(f"{path.name} is too large.", f"A file may hold {MAX_FILE // 2**30} GB.")
            if new:
                self._count(batch, folder)
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb" if new else "r+b") as file:
                file.seek(offset)
                file.write(data)
        except OSError as error:
            raise UserError(f"{path.name} cannot be stored: {error.strerror}.", "Free some disk space.") from error
        return path.stat().st_size

    def _count(self, batch: str, folder: Path) -> None:
        if batch not in self._counts:
            self._counts[batch] = sum(1 for _ in folder.rglob("*"))  # once, and after a restart
        self._counts[batch] += 1
        if self._counts[batch] > MAX_BATCH_FILES:
            raise UserError(f"More than {MAX_BATCH_FILES} files at once.", "Make a zip of them, or drop fewer.")

    def finish(self, batch: str) -> None:
        """Remove a batch once it is imported."""
        shutil.rmtree(self.folder / batch, ignore_errors=True)
        self._counts.pop(batch, None)

    def sweep(self, older_than: float = KEEP_SECONDS) -> None:
        """Remove batches that nobody came back for."""
        for folder in self.folder.glob("*"):
            if time.time() - folder.stat().st_mtime > older_than:
                shutil.rmtree(folder, ignore_errors=True)


def routes(uploads: Uploads) -> APIRouter:
    """POST /upload/<batch>?name=..&offset=.. with the raw bytes as body."""
    router = APIRouter(prefix="/upload")

    @router.post("/{batch}")
    async def chunk(batch: str, name: str, offset: int, request: Request) -> JSONResponse:
        data = await request.body()
        return JSONResponse({"size": await run_in_threadpool(uploads.write, batch, name, max(0, offset), data)})

    return router
