"""The studio's server: own FastAPI with guards around gradio, pictures by id, scripts and styles from `static/`.

serve(projects) opens http://127.0.0.1:7860
"""

import hashlib
import logging
import os
import shutil
import socket
import sys
import threading
import time
import webbrowser
from pathlib import Path

import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import FileResponse, JSONResponse, Response
from starlette.middleware.trustedhost import TrustedHostMiddleware

from lora_studio import __version__
from lora_studio.core.errors import UserError
from lora_studio.ui import media, uploads
from lora_studio.ui.guards import Guard

STATIC = Path(__file__).parent / "static"
LOCAL = ("127.0.0.1", "localhost", "::1")
TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
log = logging.getLogger("lora_studio")


def static_version() -> str:
    """Changes with every script, style and icon: they are cached forever under it."""
    digest = hashlib.sha256()
    for path in sorted(STATIC.rglob("*")):
        if path.is_file():
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def head() -> str:
    """What gradio puts into the page's head: styles in line, so that it never shows unstyled, and the scripts.

    Not gradio's `css=`: that rewrites the selectors.
    """
    base = f"/studio/{static_version()}"
    style = "\n".join(path.read_text("utf-8") for path in sorted((STATIC / "css").glob("*.css")))
    links = f'<script type="module" src="{base}/main.js"></script><link rel="icon" href="{base}/icon.svg">'
    return f"<style>{style}</style>{links}"


def prepare(projects: Path) -> None:
    """Make the projects folder and its own place for temporary files, emptied of what older starts left."""
    try:
        (projects / ".tmp").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"Cannot use {projects} for projects: {error.strerror}.", "Choose another folder with --projects."
        ) from error
    shutil.rmtree(projects / ".tmp" / "gradio", ignore_errors=True)
    os.environ["GRADIO_TEMP_DIR"] = str(
        projects / ".tmp" / "gradio"
    )  # its default is shared by all apps of the machine


def make_app(projects: Path, hosts: tuple[str, ...] = ("127.0.0.1", "localhost")) -> FastAPI:
    """The whole application. `hosts` are the names that it may be called by."""
    projects = projects.expanduser().resolve()
    prepare(projects)
    from lora_studio.ui import app as page  # after GRADIO_TEMP_DIR is set; takes most of the start time
    from lora_studio.ui.quick import gr
    from lora_studio.ui.studio import Studio

    studio = Studio(projects)
    studio.uploads.sweep()
    parent = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    parent.include_router(media.routes(projects))
    parent.include_router(uploads.routes(studio.uploads))
    _errors(parent)
    _static(parent)
    _about(parent, projects)
    gr.mount_gradio_app(
        parent,
        page.build(studio),
        path="/",
        server_name="127.0.0.1",
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        show_error=True,
        max_file_size="32mb",
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        theme=page.theme(),
        head=head(),
        app_kwargs={"docs_url": None, "redoc_url": None, "openapi_url": None},
    )
    parent.add_middleware(Guard)
    parent.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))
    parent.state.studio = studio
    return parent


def _errors(app: FastAPI) -> None:
    @app.exception_handler(UserError)
    def refused(request: Request, error: UserError) -> JSONResponse:
        status = 404 if request.method == "GET" else 400
        return JSONResponse({"error": {"message": error.message, "remedy": error.remedy}}, status)


def _about(app: FastAPI, projects: Path) -> None:
    @app.get("/api/about")
    def about() -> dict[str, str]:
        """Tells a second start that the studio runs already."""
        return {"name": "lora-studio", "version": __version__, "projects": str(projects)}


def _static(app: FastAPI) -> None:
    @app.get("/studio/{version}/{name}")
    def static(version: str, name: str) -> Response:
        path = STATIC / name
        if path.suffix not in TYPES or path.parent != STATIC or not path.is_file():
            raise HTTPException(404)
        return FileResponse(path, media_type=TYPES[path.suffix], headers=media.FOREVER)

    @app.get("/favicon.ico")
    def favicon() -> Response:
        return FileResponse(STATIC / "icon.svg", media_type=TYPES[".svg"], headers=media.FOREVER)


def free_port(host: str, port: int) -> int:
    """`port`, or the next free one; 0 asks the system for any."""
    for candidate in (port, *range(port + 1, port + 20)) if port else (0,):
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, candidate))
                return probe.getsockname()[1]
            except OSError:
                continue
    raise UserError(f"The ports {port} to {port + 19} are all in use.", "Choose another one with --port.")


def serve(projects: Path, host: str = "127.0.0.1", port: int = 7860, browser: bool = True) -> None:
    """Run the studio until Ctrl+C. Jobs go on without it. Raises UserError when it cannot start."""
    started = time.perf_counter()
    port = free_port(host, port)
    if host not in LOCAL:
        warning = (
            f"Warning: the studio listens on {host} and has no login: anybody who reaches this machine can use it."
        )
        print(warning, file=sys.stderr)
    hosts = ("127.0.0.1", "localhost") if host in LOCAL else (host, "127.0.0.1", "localhost", socket.gethostname())
    if host in ("0.0.0.0", "::"):
        raise UserError(f"The studio does not listen on {host}.", "Name one address of this machine with --host.")
    app = make_app(projects, hosts)
    url = f"http://{'127.0.0.1' if host in LOCAL else host}:{port}/"

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            text = f"LoRA Studio is ready at {url} after {time.perf_counter() - started:.1f} s (Ctrl+C ends it)"
            print(text, file=sys.stderr, flush=True)
            if browser:
                threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()

    Server(uvicorn.Config(app, host=host, port=port, log_level="warning", ws="none", timeout_graceful_shutdown=2)).run()
