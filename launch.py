#!/usr/bin/env python3
"""LoRA Studio with one command: makes `.venv`, installs the studio into it, opens it in the browser.

    python launch.py                     open the studio (the first start installs it)
    python launch.py --no-browser        the same without opening a browser
    python launch.py --port 8000         on another port
    python launch.py --projects DIR      with another projects folder
    python launch.py --version           which version this is
    python launch.py --repair            check every installed file and put right what is broken
    python launch.py test [ARGS]         install what the tests need, run them on all cores (ARGS go to pytest)
    python launch.py demo                all six steps on the three sample projects, without a browser
    python launch.py COMMAND ...         the command line: new, gather, curate, tag, train, test PROJECT, export ...

Needs Python 3.11 or newer and nothing else. Which torch is installed depends on the machine (see `torch_index`);
the environment variable LORA_STUDIO_TORCH_INDEX names another package index for it.
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - an older Python gets this far and no further
    sys.exit(
        f"LoRA Studio needs Python 3.11 or newer, and this is Python {sys.version.split()[0]} ({sys.executable}).\n"
        "Install a newer one from https://www.python.org/downloads/ and run: python3.11 launch.py"
    )

import contextlib
import csv
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import tempfile
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
STAMP = VENV / "lora-studio.json"
LOG = VENV / "install.log"
FREE_NEEDED = 3 * 2**30  # a CPU torch and the rest unpack to 1.6 GiB; pip holds a copy while it works
TORCH_INDEX = "https://download.pytorch.org/whl/"
SELF_CHECK = """
import torch
import lora_studio.torchvision_ops
import gradio_client, open_clip, peft
from diffusers import StableDiffusionPipeline
from transformers import CLIPTextModel
cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
device = "cuda" if cuda else "mps" if mps else "cpu"
assert (torch.ones(8, 8, device=device) @ torch.ones(8, 8, device=device)).sum().item() == 512
print(f"torch {torch.__version__} works on", torch.cuda.get_device_name() if cuda else device.upper())
"""


class InstallError(Exception):
    """The installation cannot go on; the text says why and what to do."""


def main(words: list[str]) -> int:
    """Install what is missing, then hand over to what the words ask for."""
    if words[:1] in (["-h"], ["--help"]):
        print(__doc__.strip())
        return 0
    if words[:1] == ["--version"]:
        print(f"lora-studio {project()['version']}")
        return 0
    repair = "--repair" in words
    words = [word for word in words if word != "--repair"]
    testing = words[:1] == ["test"] and not names_a_project(words[1:])
    try:
        ensure_installed(["test"] if testing else [], repair)
    except InstallError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. Run the same command again to go on where this one stopped.", file=sys.stderr)
        return 130
    if testing:
        return hand_over(["-m", "pytest", "-n", str(workers()), "--dist", "loadfile", *words[1:]], ROOT)
    if repair and not words:
        return 0
    return hand_over(["-m", "lora_studio", *(words if has_command(words) else ["studio", *words])], None)


def workers() -> int:
    """Processes that run the tests: one a core, and not so many that browsers and models fill the memory."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(4, cores)


def has_command(words: list[str]) -> bool:
    """Whether the words hold a command, and not only options of the studio."""
    rest = iter(words)
    for word in rest:
        if word in ("--port", "--projects", "--host"):
            next(rest, None)
        elif not word.startswith("-") or word == "--help":
            return True
    return False


def names_a_project(words: list[str]) -> bool:
    """`test` runs this program's tests, but `test PROJECT` is the sixth step. A word that is no path here and no
    option of pytest is a project."""
    first = words[0] if words else ""
    return bool(first) and not first.startswith("-") and not (ROOT / first.split("::")[0]).exists()


def hand_over(arguments: list[str], folder: Path | None) -> int:
    """Go on as the installed Python; signals and the exit code are its own."""
    command = [str(PYTHON), *arguments]
    if folder:
        os.chdir(folder)
    sys.stdout.flush()
    sys.stderr.flush()
    os.environ["PYTHONSAFEPATH"] = "1"  # a random.py in the user's folder must not stand in for the real one
    if os.name != "nt":
        os.execv(command[0], command)
    with subprocess.Popen(command) as child:
        while True:
            try:
                return child.wait()
            except KeyboardInterrupt:  # the child got it as well and ends in its own way
                continue


def project() -> dict:
    """The [project] table of pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


# --- what is installed ------------------------------------------------------------------------------------------------


def wanted(extras: list[str]) -> dict:
    """What the stamp must say: any difference means that something is to be installed."""
    return {
        "pyproject": hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest(),
        "python": platform.python_version(),
        "root": str(ROOT),
        "extras": extras,
    }


def is_installed(extras: list[str]) -> bool:
    """Whether the stamp of a finished installation fits: same project file, same Python, same folder, the extras."""
    try:
        stamp = json.loads(STAMP.read_text("utf-8"))
    except (OSError, ValueError):
        return False
    has = stamp.get("extras", [])
    return PYTHON.exists() and set(extras) <= set(has) and {**stamp, "extras": extras} == wanted(extras)


def ensure_installed(extras: list[str], repair: bool = False) -> None:
    """Bring `.venv` to what pyproject.toml asks for. The stamp is written last, so that nothing unfinished counts.

    Raises InstallError.
    """
    if is_installed(extras) and not repair:
        return
    with only_one():
        if is_installed(extras) and not repair:  # another start has done it meanwhile
            return
        begun = time.monotonic()
        extras = sorted({*extras, *installed_extras()})
        unfinished = repair or (VENV.exists() and not STAMP.exists())
        STAMP.unlink(missing_ok=True)
        make_venv()
        if unfinished:
            drop_broken_packages()
        install(extras)
        self_check()
        write_stamp(wanted(extras))
        say(f"Installed in {time.monotonic() - begun:.0f} s.")


def installed_extras() -> list[str]:
    """Extras of the last finished installation: an update keeps them."""
    try:
        return list(json.loads(STAMP.read_text("utf-8")).get("extras", []))
    except (OSError, ValueError):
        return []


def write_stamp(content: dict) -> None:
    """Write it beside, then rename: a stamp is whole or not there."""
    temporary = STAMP.with_suffix(".new")
    temporary.write_text(json.dumps(content, indent=1), "utf-8")
    os.replace(temporary, STAMP)


@contextlib.contextmanager
def only_one() -> Iterator[None]:
    """Let one installation run at a time; a second start waits for the first and then finds it done."""
    name = hashlib.sha256(str(ROOT).encode()).hexdigest()[:16]
    with (Path(tempfile.gettempdir()) / f"lora-studio-{name}.lock").open("a+b") as file:
        told = False
        while not _try_lock(file):
            if not told:
                say("Another start is installing LoRA Studio; waiting for it.")
            told = True
            time.sleep(0.5)
        yield  # closing the file, or the end of this process, frees the lock


def _try_lock(file) -> bool:
    try:
        if os.name == "nt":
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


# --- installing -------------------------------------------------------------------------------------------------------


def make_venv() -> None:
    """Make `.venv`, or make it anew when it is another Python's or its pip does not answer."""
    if PYTHON.exists():
        command = [str(PYTHON), "-c", "import pip, platform; print(platform.python_version())"]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        if answer.returncode == 0 and answer.stdout.strip() == platform.python_version():
            return
        say(f"The Python in {VENV} is another one or broken: making it anew.")
    free = shutil.disk_usage(ROOT).free
    if free < FREE_NEEDED:
        raise InstallError(
            f"Only {free / 2**30:.1f} GiB are free on the disk of {ROOT}, and the installation needs "
            f"{FREE_NEEDED / 2**30:.0f} GiB (more with CUDA). Free some space and start again."
        )
    say(f"Setting up LoRA Studio in {VENV} (once; later starts take seconds).")
    try:
        if VENV.exists():
            shutil.rmtree(VENV)
        subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        text = (error.stdout + error.stderr).strip()
        hint = "On Debian and Ubuntu: sudo apt install python3-venv" if "ensurepip" in text else text[-500:]
        raise InstallError(f"Python could not make a virtual environment in {VENV}.\n{hint}") from error
    except OSError as error:
        raise InstallError(f"Cannot write {VENV} ({error}). Copy LoRA Studio to a folder of your own.") from error


def drop_broken_packages() -> None:
    """Forget packages of which a file is missing or cut short, as a killed installation leaves them.

    pip takes a package for installed when its `.dist-info` stands there, so that folder goes; pip then brings the
    package again, over what is left of it.
    """
    for site in VENV.glob("Lib/site-packages" if os.name == "nt" else "lib/python*/site-packages"):
        for leftover in site.glob("~*"):  # pip's name for what it was removing
            shutil.rmtree(leftover, ignore_errors=True)
        for info in site.glob("*.dist-info"):
            if not is_whole(info):
                say(f"{info.name.removesuffix('.dist-info')} is not whole: it is installed again.")
                shutil.rmtree(info)


def is_whole(info: Path) -> bool:
    """Whether every file that RECORD of this `.dist-info` lists is there with its size."""
    record = info / "RECORD"
    if not record.is_file():
        return False
    with record.open(encoding="utf-8", newline="") as file:
        for row in csv.reader(file):
            if len(row) != 3 or row[0].endswith(".pyc"):
                continue
            path = info.parent / row[0]
            if not path.is_file() or (row[2] and path.stat().st_size != int(row[2])):
                return False
    return True


def install(extras: list[str]) -> None:
    """pip, torch of the right kind, then the project and everything it needs."""
    pip(["--upgrade", "pip>=24.1"], "pip")  # the first that can report how far a download is
    index = os.environ.get("LORA_STUDIO_TORCH_INDEX") or ("" if has_own_sources() else torch_index())
    if index:
        needs = [need for need in project()["dependencies"] if re.match(r"torch(vision)?\b", need)]
        try:
            pip([*needs, "--index-url", index], f"torch from {index}")
        except InstallError:
            say("That torch cannot be had; taking the ordinary one.")
    name = f"{ROOT}[{','.join(extras)}]" if extras else str(ROOT)
    pip(["--editable", name], "LoRA Studio and what it needs")


def has_own_sources() -> bool:
    """Whether this machine's pip is set up with package sources of its own: then they decide."""
    answer = subprocess.run([str(PYTHON), "-m", "pip", "config", "list"], capture_output=True, text=True, check=False)
    return bool(re.search(r"\b(index-url|extra-index-url|find-links|no-index)=", answer.stdout))


def torch_index() -> str:
    """The package index whose torch fits this machine; empty where PyPI's own is the right one."""
    return index_for(platform.system(), compute_capability())


def index_for(system: str, capability: float) -> str:
    """(operating system, compute capability of the NVIDIA card or 0.0) -> package index or empty.

    PyPI holds a CUDA 13 torch for Linux, a CPU one for Windows and an MPS one for macOS.
    """
    if 0 < capability < 7.5:
        return TORCH_INDEX + "cu126"  # CUDA 13 left out the cards before Turing
    if system == "Linux" and not capability:
        return TORCH_INDEX + "cpu"  # saves 3 GB of CUDA that nothing could use
    if system == "Windows" and capability:
        return TORCH_INDEX + "cu130"
    return ""


def compute_capability() -> float:
    """Of the weakest NVIDIA card, e.g. 8.6; 0.0 when there is none."""
    program = shutil.which("nvidia-smi")
    if not program:
        return 0.0
    command = [program, "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        return min(float(line) for line in answer.stdout.split())
    except (OSError, subprocess.SubprocessError, ValueError):
        return 0.0


def pip(arguments: list[str], what: str) -> None:
    """Run `pip install`, showing what it does; the whole output goes to the log. Raises InstallError."""
    say(f"Installing {what} ...")
    options = [] if what == "pip" else ["--progress-bar", "raw"]
    command = [str(PYTHON), "-m", "pip", "install", "--disable-pip-version-check", *options, *arguments]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8", "PYTHONUNBUFFERED": "1"}
    lines: list[str] = []
    with LOG.open("a", encoding="utf-8") as log, subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        encoding="utf-8", errors="replace", env=environment,
    ) as child:  # fmt: skip
        log.write(f"$ {' '.join(command)}\n")
        try:
            for line in child.stdout:
                if not line.startswith("Progress "):
                    log.write(line)
                    lines.append(line.rstrip())
                show(line.strip())
        except KeyboardInterrupt:
            child.terminate()
            raise
    show("")
    if child.returncode:
        said = [line for line in lines if line.lower().startswith("error")] or lines[-8:]
        raise InstallError(
            "The installation failed:\n  " + "\n  ".join(said[-8:]) + f"\nThe whole log is {LOG}\n"
            "Check the network and the free disk space, then run the same command again: it goes on from here."
        )


def self_check() -> None:
    """Import what the studio stands on and compute something, in the new Python. Raises InstallError."""
    say("Checking the installation ...")
    command = [str(PYTHON), "-c", SELF_CHECK]
    answer = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", errors="replace", check=False)
    with LOG.open("a", encoding="utf-8") as log:
        log.write(answer.stdout + answer.stderr)
    if answer.returncode:
        last = (answer.stderr.strip().splitlines() or ["no word"])[-1]
        raise InstallError(
            f"The installed packages do not work together: {last}\nThe whole log is {LOG}\n"
            "Try: python launch.py --repair"
        )
    say(answer.stdout.strip())
    if compute_capability() and "works on CPU" in answer.stdout:
        say("There is an NVIDIA card, but this torch cannot use it: training will run on the CPU. Update its driver,")
        say("or name a fitting index in LORA_STUDIO_TORCH_INDEX and run: python launch.py --repair")


# --- showing ----------------------------------------------------------------------------------------------------------

_file = ""


def say(text: str) -> None:
    """A line for the user. On stderr: stdout belongs to the command that runs afterwards."""
    print(text, file=sys.stderr, flush=True)


def show(line: str) -> None:
    """Turn a line of pip's output into progress: one line that changes on a terminal, a line per big file elsewhere."""
    global _file
    terminal = sys.stderr.isatty()
    name = re.match(r"(?:Downloading|Processing|Using cached|Collecting) (?:\S*/)?([\w.]+)", line)
    part = re.match(r"Progress (\d+) of ([1-9]\d*)$", line)
    if part and terminal:
        _status(f"  {_file}: {100 * int(part[1]) // int(part[2])} % of {int(part[2]) / 2**20:.0f} MB")
    elif name:
        _file = name[1]
        size = re.search(r"\((\d{2,}(?:\.\d+)? MB|[\d.]+ GB)\)", line)
        if terminal:
            _status(f"  {_file}")
        elif size:
            say(f"  downloading {_file} ({size[1]})")
    elif line.startswith("Installing collected packages: "):
        text = f"  unpacking {line.count(',') + 1} packages"
        _status(text) if terminal else say(text)
    elif not line and terminal:
        _status("")


def _status(text: str) -> None:
    width = shutil.get_terminal_size().columns - 1
    print("\r" + text[:width].ljust(width) + ("\r" if not text else ""), end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
