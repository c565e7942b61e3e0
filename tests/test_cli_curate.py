"""`lora-studio curate`: what it answers and does. Called within this process, for it is called often here;
tests/test_cli.py runs it as a shell does."""

import io
import json
import signal
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image as Pil

from lora_studio import cli
from tests.conftest import draw_picture


def studio(*words: object, projects: Path) -> SimpleNamespace:
    """Exit code, stdout and stderr of a command."""
    out, err, before = io.StringIO(), io.StringIO(), signal.getsignal(signal.SIGTERM)
    try:
        with redirect_stdout(out), redirect_stderr(err), pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["lora-studio", *map(str, words), "--projects", str(projects)])
            code = cli.main()
    finally:
        signal.signal(signal.SIGTERM, before)
    return SimpleNamespace(returncode=code, stdout=out.getvalue(), stderr=err.getvalue())


def answer(*words: object, projects: Path) -> dict:
    """The JSON document of a command that must succeed."""
    result = studio(*words, "--json", projects=projects)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def smaller(data: bytes) -> bytes:
    buffer = io.BytesIO()
    Pil.open(io.BytesIO(data)).resize((64, 64)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five pictures, of which the last is a smaller copy of the second."""
    home = tmp_path_factory.mktemp("curate")
    pile = home / "pile"
    pile.mkdir()
    for seed in range(4):
        (pile / f"{seed}.png").write_bytes(draw_picture(seed, (96, 64 if seed else 96)))
    (pile / "copy.png").write_bytes(smaller(draw_picture(0)))
    answer("new", "a", projects=home / "p")
    answer("gather", "a", pile, projects=home / "p")
    return home / "p"


@pytest.fixture(autouse=True)
def undone(projects):
    """Every test leaves the pictures as they were."""
    yield
    while studio("curate", "a", "--undo", projects=projects).returncode == 0:
        pass


def listed(projects: Path, *words: str) -> list[dict]:
    return answer("curate", "a", "--list", *words, projects=projects)["pictures"]


def test_pictures_are_listed_filtered_and_sorted(projects):
    every = listed(projects)
    assert {one["file"] for one in every} == {"0.png", "1.png", "2.png", "3.png", "copy.png"}
    assert [one["file"] for one in listed(projects, "--where", "width < 90")] == ["copy.png"]
    names = [one["file"] for one in listed(projects, "--where", "name:.png not width < 90", "--sort", "-name")]
    assert names == ["3.png", "2.png", "1.png", "0.png"]
    assert next(one["flags"] for one in every if one["file"] == "copy.png")
    shown = studio("curate", "a", "--list", projects=projects).stdout
    assert "copy.png" in shown and "5 of 5 pictures" in shown


def test_a_filter_decides_and_undo_and_redo_go_back_and_forth(projects):
    done = answer("curate", "a", "--where", "width < 90", "--decide", "maybe", projects=projects)
    assert len(done["ids"]) == 1
    assert [one["file"] for one in listed(projects, "--where", "maybe")] == ["copy.png"]
    assert answer("curate", "a", "--undo", projects=projects) == {"undone": "Set aside 1 picture"}
    assert listed(projects, "--where", "maybe") == []
    assert answer("curate", "a", "--redo", projects=projects) == {"redone": "Set aside 1 picture"}
    dry = answer("curate", "a", "--where", "id > 0", "--decide", "reject", "--dry-run", projects=projects)
    assert len(dry["ids"]) == 5 and listed(projects, "--where", "reject") == []


def test_accept_does_all_that_is_proposed(projects):
    done = answer("curate", "a", "--accept", projects=projects)
    assert len(done["kept"]) + len(done["maybe"]) + len(done["rejected"]) == 5
    assert [one["file"] for one in done["rejected"]] == ["copy.png"]
    assert all(one["decision"] != "new" for one in listed(projects))


def test_crops_by_numbers_and_by_words(projects):
    first = listed(projects, "--where", "name=1.png")[0]["id"]
    assert answer("curate", "a", "--crop", first, 0, 0, 0.5, 1, projects=projects)["crop"] == [0, 0, 0.5, 1]
    done = answer("curate", "a", "--where", "width > 90", "--crop-to", "1:1", projects=projects)
    assert len(done["crops"]) == 4 and done["failed"] == []
    assert [one["file"] for one in listed(projects, "--where", "cropped")] == ["1.png", "2.png", "3.png"]
    found = answer("curate", "a", "--where", "width > 90", "--crop-to", "face", projects=projects)
    assert found["crops"] == {} and "looked for faces" in found["failed"][0]["reason"]


def test_the_report_holds_findings_proposals_and_what_is_not_known_yet(projects):
    found = answer("curate", "a", "--report", projects=projects)
    assert found["used"] == 5 and found["proposals"]["reject"] == 1 and found["findings"]
    assert found["look"]["missing"] == 5
    shown = studio("curate", "a", "--report", projects=projects).stdout
    assert "--look" in shown and "Proposed:" in shown and found["findings"][0]["text"] in shown


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--where", "widht < 3"), "Close to it: width"),
        (("--where", "width <"), "a value is missing"),
        (("--decide", "keep"), "--where is missing"),
        (("--crop-to", "face"), "--where is missing"),
        (("--list", "--sort", "sharpnes"), "sharpness"),
        (("--where", "id = 1", "--crop-to", "nose"), "nose is nothing to crop to"),
        (("--crop", "1", "0.5", "0", "0.5", "1"), "outside the picture"),
        (("--crop", "99", "0", "0", "0.5", "1"), "no picture 99"),
    ],
)
def test_what_cannot_be_done_is_said_with_the_way_out(projects, words, said):
    result = studio("curate", "a", *words, projects=projects)
    assert result.returncode == 1 and said in result.stderr and result.stdout == ""
    as_json = studio("curate", "a", *words, "--json", projects=projects)
    assert json.loads(as_json.stdout)["error"] and as_json.returncode == 1
