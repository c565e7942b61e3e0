"""What all tests share: one thread, no network, projects in a folder with an awkward name, pictures made here."""

import os

# Before anything imports torch: tiny models are 4 to 80 times faster on one thread. Child processes inherit it.
os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE", MKL_NUM_THREADS="1")
os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", GRADIO_ANALYTICS_ENABLED="False")
os.environ.pop("LORA_STUDIO_PROJECTS", None)
# The launcher keeps the working folder out of sys.path; the children that run the tests' own functions need it.
os.environ["PYTHONPATH"] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

import io
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from tests import findings

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "microsoft-edge", "msedge")
CHROMIUM_PATHS = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    r"C:\Program Files\Google\Chrome\Application\chrome.exe",
    r"C:\Program Files (x86)\Microsoft\Edge\Application\msedge.exe",
)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A process that ran a part of the tests hands its tables over."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["findings"] = findings.TABLES


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    for title, rows in getattr(node, "workeroutput", {}).get("findings", {}).items():
        for row, values in rows.items():
            for column, value in values.items():
                findings.found(title, row, column, value)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The tables that tests have filled."""
    for title in findings.TABLES:
        terminalreporter.section(title)
        for line in findings.lines(title):
            terminalreporter.write_line(line)


@pytest.fixture
def projects(tmp_path: Path) -> Path:
    """An empty projects folder whose path holds a blank, an umlaut and signs of another script."""
    folder = tmp_path / "Prøjekte ü 中文 (x)"
    folder.mkdir()
    return folder


def draw_picture(seed: int, size: tuple[int, int] = (96, 96), form: str = "PNG") -> bytes:
    """Encoded picture of a few random shapes; another seed is clearly another picture."""
    dice = random.Random(seed)
    image = Image.new("RGB", size, tuple(dice.randrange(256) for _ in range(3)))
    pen = ImageDraw.Draw(image)
    for _ in range(6):
        (x0, x1), (y0, y1) = (sorted(dice.sample(range(side), 2)) for side in size)
        shape = pen.ellipse if dice.random() < 0.5 else pen.rectangle
        shape((x0, y0, x1, y1), fill=tuple(dice.randrange(256) for _ in range(3)), outline=(0, 0, 0))
    buffer = io.BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()


@pytest.fixture
def picture_folder(tmp_path: Path) -> Callable[..., Path]:
    """Make a folder of `count` different PNG files; returns it."""

    def make(count: int, name: str = "pictures", first: int = 0, size: tuple[int, int] = (96, 96)) -> Path:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        for seed in range(first, first + count):
            (folder / f"picture {seed:03d}.png").write_bytes(draw_picture(seed, size))
        return folder

    return make


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A true Stable Diffusion folder of the smallest size, with random weights."""
    from tests.tiny import make_base  # here, for it imports torch

    return make_base(tmp_path_factory.mktemp("base ü") / "tiny")


@pytest.fixture(scope="session")
def chromium_path() -> str:
    """Path of a Chromium-like browser. Without one a browser test is skipped with the remedy, and fails in CI."""
    named = os.environ.get("LORA_STUDIO_CHROMIUM", "")
    found = [shutil.which(name) for name in ((named,) if named else CHROMIUM_NAMES)]
    found += [path for path in CHROMIUM_PATHS if Path(path).exists()]
    path = next((path for path in found if path), None)
    if path:
        return path
    text = "no Chromium found: install it (Debian: apt-get install chromium) or name one in LORA_STUDIO_CHROMIUM"
    if os.environ.get("CI"):
        pytest.fail(text)
    pytest.skip(text)
