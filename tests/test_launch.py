"""The launcher in a folder of its own: what it does before, instead of and after an installation. No network."""

import ast
import fcntl
import hashlib
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

REPOSITORY = Path(__file__).parents[1]
ECHO = "import random, sys; print('handed over', sys.argv[1:]); sys.exit(7)"
pytestmark = pytest.mark.skipif(os.name == "nt", reason="these tests lay out a POSIX environment")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A folder with an awkward name that holds the launcher, the project file and a package that echoes its words."""
    folder = tmp_path / "Stüdio 中文 (x) & y"
    (folder / "lora_studio").mkdir(parents=True)
    for name in ("launch.py", "pyproject.toml"):
        shutil.copy(REPOSITORY / name, folder)
    (folder / "lora_studio" / "__main__.py").write_text(ECHO)
    return folder


@pytest.fixture
def launcher(copy: Path) -> ModuleType:
    """The copy's launch.py as a module."""
    spec = importlib.util.spec_from_file_location("launch_copy", copy / "launch.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def installed(copy: Path, launcher: ModuleType) -> Path:
    """The copy with an environment and the stamp of a finished installation."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(copy / ".venv")], check=True)
    launcher.write_stamp(launcher.wanted([]))
    return copy


@pytest.fixture(autouse=True)
def package_of_the_copy(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation would make the package importable from anywhere; here PYTHONPATH does."""
    monkeypatch.setenv("PYTHONPATH", str(copy))


def launch(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(folder / "launch.py"), *words]
    work = folder.parent / "work"
    work.mkdir(exist_ok=True)
    (work / "random.py").write_text("raise SystemExit('a file of the working folder was imported')")
    environment = {**os.environ, **environment}
    return subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, check=False, timeout=120)


def test_the_version_is_told_without_an_installation(copy):
    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    answer = launch(copy, "--version")
    assert (answer.returncode, answer.stdout) == (0, f"lora-studio {version}\n")
    assert not (copy / ".venv").exists()


def test_the_package_and_the_project_file_name_the_same_version():
    from lora_studio import __version__

    assert tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]["version"] == __version__


def test_an_older_python_can_read_the_file_as_far_as_its_refusal():
    source = (REPOSITORY / "launch.py").read_text("utf-8")
    ast.parse(source, feature_version=(3, 7))
    before = source[: source.index("import contextlib")]
    assert "sys.exit" in before and "3.11" in before


def older_pythons() -> list[str]:
    found = [shutil.which(f"python3.{minor}") for minor in range(6, 11)]
    found += map(str, Path.home().glob(".pyenv/versions/3.[6-9].*/bin/python"))
    found += map(str, Path.home().glob(".pyenv/versions/3.10.*/bin/python"))
    return [path for path in found if path]


def test_an_older_python_is_refused_in_a_sentence(copy):
    if not older_pythons():
        pytest.skip("no Python older than 3.11 is installed here")
    for path in older_pythons():
        answer = subprocess.run([path, str(copy / "launch.py")], capture_output=True, text=True, check=False)
        if "pyenv" in answer.stderr and answer.returncode == 127:
            continue  # a shim of pyenv with no Python behind it
        assert answer.returncode == 1
        assert answer.stderr.startswith("LoRA Studio needs Python 3.11 or newer, and this is Python 3.")
        assert "Traceback" not in answer.stderr


def test_an_installed_studio_starts_at_once_and_hands_over_words_and_exit_code(installed):
    answer = launch(installed, "status", "--json", "a b")
    assert answer.stdout == "handed over ['status', '--json', 'a b']\n"
    assert answer.returncode == 7
    assert answer.stderr == ""


@pytest.mark.parametrize(
    ("words", "handed"),
    [
        ([], ["studio"]),
        (["--no-browser", "--port", "8000"], ["studio", "--no-browser", "--port", "8000"]),
        (["--projects", "p q"], ["studio", "--projects", "p q"]),
        (["--projects", "p q", "status"], ["--projects", "p q", "status"]),
        (["demo", "--quick"], ["demo", "--quick"]),
        (["test", "zorbi"], ["test", "zorbi"]),
        (["gather", "zorbi", "--repair"], ["gather", "zorbi"]),
    ],
)
def test_words_without_a_command_open_the_studio(installed, launcher, words, handed, monkeypatch):
    if "--repair" in words:
        monkeypatch.setattr(launcher, "ensure_installed", lambda extras, repair: None)  # needs a network otherwise
    seen = []
    monkeypatch.setattr(launcher, "hand_over", lambda arguments, folder: seen.append(arguments) or 0)
    assert launcher.main(words) == 0
    assert seen == [["-m", "lora_studio", *handed]]


@pytest.mark.parametrize("words", [[], ["-x"], ["tests/core"], ["tests/test_launch.py::test_x"]])
def test_test_without_a_project_means_the_tests_of_the_program(launcher, copy, words):
    (copy / "tests" / "core").mkdir(parents=True)
    (copy / "tests" / "test_launch.py").touch()
    assert not launcher.names_a_project(words)
    assert launcher.names_a_project(["zorbi"])


@pytest.mark.parametrize(
    "break_it",
    [
        lambda folder: (folder / "pyproject.toml").open("a").write("\n# changed\n"),
        lambda folder: (folder / ".venv/lora-studio.json").unlink(),
        lambda folder: (folder / ".venv/lora-studio.json").write_text('{"pyproject": "4e'),
        lambda folder: (folder / ".venv/bin/python").unlink(),
    ],
    ids=["project file changed", "no stamp", "half a stamp", "no python"],
)
def test_whatever_does_not_fit_the_stamp_is_not_taken_for_installed(installed, launcher, break_it):
    assert launcher.is_installed([])
    break_it(installed)
    assert not launcher.is_installed([])


def test_another_python_another_place_or_a_new_extra_is_not_taken_for_installed(installed, launcher):
    stamp = installed / ".venv" / "lora-studio.json"
    content = json.loads(stamp.read_text())
    assert content["python"] == platform.python_version()
    for change in ({"python": "3.11.0rc1"}, {"root": "/elsewhere"}):
        stamp.write_text(json.dumps({**content, **change}))
        assert not launcher.is_installed([])
    stamp.write_text(json.dumps({**content, "extras": ["test"]}))
    assert launcher.is_installed([]) and launcher.is_installed(["test"])
    stamp.write_text(json.dumps(content))
    assert not launcher.is_installed(["test"])


def test_an_installation_that_fails_leaves_no_stamp_says_why_and_is_tried_again(copy):
    for _ in range(2):
        answer = launch(copy, "--no-browser", PIP_NO_INDEX="1", PIP_FIND_LINKS="", PIP_CONFIG_FILE=os.devnull)
        assert answer.returncode == 1
        assert "The installation failed:\n  ERROR: " in answer.stderr
        assert str(copy / ".venv" / "install.log") in answer.stderr
        assert "handed over" not in answer.stdout
        assert not (copy / ".venv" / "lora-studio.json").exists()


def make_package(site: Path, name: str) -> Path:
    """A package as pip leaves it: code, and a `.dist-info` whose RECORD lists every file with its size."""
    (site / name).mkdir(parents=True)
    info = site / f"{name}-1.0.dist-info"
    info.mkdir()
    (site / name / "__init__.py").write_text("value = 1\n")
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = []
    for path in (site / name / "__init__.py", info / "METADATA"):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        lines.append(f"{path.relative_to(site)},sha256={digest},{path.stat().st_size}")
    lines += [f"{name}/__pycache__/__init__.cpython-311.pyc,,", f"{info.name}/RECORD,,"]
    (info / "RECORD").write_text("\n".join(lines) + "\n")
    return info


def test_packages_that_a_kill_left_unfinished_are_installed_again_and_whole_ones_kept(installed, launcher):
    site = next((installed / ".venv" / "lib").glob("python*")) / "site-packages"
    whole, cut, missing, unrecorded = (make_package(site, name) for name in ("whole", "cut", "missing", "unrecorded"))
    (site / "cut" / "__init__.py").write_text("val")
    (site / "missing" / "__init__.py").unlink()
    (unrecorded / "RECORD").unlink()
    (site / "~eing_removed").mkdir()
    launcher.drop_broken_packages()
    assert whole.exists()
    assert not any(path.exists() for path in (cut, missing, unrecorded, site / "~eing_removed"))


def test_a_second_start_waits_for_the_installation_of_the_first(installed):
    stamp = installed / ".venv" / "lora-studio.json"
    content = stamp.read_text()
    stamp.unlink()
    name = hashlib.sha256(str(installed).encode()).hexdigest()[:16]
    with (Path(tempfile.gettempdir()) / f"lora-studio-{name}.lock").open("a+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        command = [sys.executable, str(installed / "launch.py"), "status"]
        second = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert "waiting for it" in second.stderr.readline()
        stamp.write_text(content)  # the first has finished
    out, err = second.communicate(timeout=30)
    assert err == ""
    assert out == "handed over ['status']\n"


@pytest.mark.parametrize(
    ("system", "capability", "index"),
    [
        ("Linux", 0.0, "cpu"),
        ("Linux", 8.6, ""),
        ("Linux", 6.1, "cu126"),
        ("Windows", 0.0, ""),
        ("Windows", 12.0, "cu130"),
        ("Windows", 7.0, "cu126"),
        ("Darwin", 0.0, ""),
    ],
)
def test_torch_is_chosen_by_the_machine(launcher, system, capability, index):
    assert launcher.index_for(system, capability).removeprefix("https://download.pytorch.org/whl/") == index


def test_the_launcher_needs_nothing_but_the_standard_library():
    tree = ast.parse((REPOSITORY / "launch.py").read_text("utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in names} <= sys.stdlib_module_names
