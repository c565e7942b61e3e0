import hashlib
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lora_studio.core.errors import UserError
from lora_studio.core.jobs import Jobs, run_inline
from lora_studio.core.project import Plan, Project
from lora_studio.core.settings import SettingsError
from lora_studio.judge import dataset
from lora_studio.steps import conception, gathering
from lora_studio.steps.sources.config import SourceConfig


def picture(seed: int, size=(48, 40)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1] // 4, size[0] // 4, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def project(tmp_path) -> Project:
    return Project.create(tmp_path / "projects", Plan(name="Ünï (x) &", trigger="zorbi"))


@pytest.fixture
def pile(tmp_path) -> Path:
    folder = tmp_path / "my pictures ü 中"
    (folder / "5_zorbi").mkdir(parents=True)
    (folder / "a.png").write_bytes(picture(1))
    (folder / "a.txt").write_bytes("zorbi, café,, café".encode("cp1252"))
    (folder / "a.jpg").write_bytes(picture(2))  # a PNG with the wrong name is still a picture
    (folder / "A.png").write_bytes(picture(3))
    (folder / "double.png").write_bytes(picture(1))
    (folder / "5_zorbi" / "b.png").write_bytes(picture(4))
    (folder / "notes.png").write_text("I am no picture")
    (folder / "empty.png").write_bytes(b"")
    (folder / "cut.png").write_bytes(picture(5)[:150])
    (folder / ".hidden.png").write_bytes(picture(6))
    return folder


def test_a_pile_is_sorted_into_added_already_and_refused(project, pile):
    before = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in pile.rglob("*") if path.is_file()}
    result = gathering.gather(project, [pile])
    assert (result.added, result.already) == (4, 1)
    assert {refused.file for refused in result.refused} == {"notes.png", "empty.png", "cut.png"}
    assert all(refused.reason for refused in result.refused)
    images = {image.name: image for image in project.images()}
    assert images["a.png"].caption == "zorbi, café"
    assert images["5_zorbi/b.png"].repeats == 5 and images["a.png"].repeats == 1
    assert before == {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in pile.rglob("*") if path.is_file()}
    for image in images.values():
        assert hashlib.sha256(project.original_path(image).read_bytes()).hexdigest() == image.sha256
        assert project.thumb_path(image).read_bytes()[8:12] == b"WEBP"


def test_importing_again_adds_nothing(project, pile):
    gathering.gather(project, [pile])
    again = gathering.gather(project, [pile])
    assert (again.added, again.already, len(project.images())) == (0, 5, 4)


def test_a_zip_is_read_and_its_ways_out_are_refused(project, tmp_path):
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("3_zorbi/one.png", picture(1))
        archive.writestr("3_zorbi/one.txt", "zorbi, hat")
        archive.writestr("../evil.png", picture(2))
        archive.writestr("/etc/evil.png", picture(3))
    result = gathering.gather(project, [path])
    assert result.added == 1 and len(result.refused) == 2
    assert all("outside" in refused.reason for refused in result.refused)
    image = project.images()[0]
    assert (image.caption, image.repeats) == ("zorbi, hat", 3)
    assert not list(tmp_path.rglob("evil.png"))


@pytest.mark.parametrize("content", [b"PK\x03\x04 broken", b""])
def test_a_broken_zip_is_named(project, tmp_path, content):
    path = tmp_path / "set.zip"
    path.write_bytes(content)
    assert [refused.file for refused in gathering.gather(project, [path]).refused] == ["set.zip"]


def test_an_empty_folder_and_a_missing_one_say_so(project, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no pictures in"):
        gathering.gather(project, [tmp_path / "empty"])
    with pytest.raises(UserError, match="does not exist"):
        gathering.gather(project, [tmp_path / "nowhere"])


def test_a_stopped_import_is_continued_by_repeating_it(project, pile):
    seen: list[str] = []
    first = gathering.gather(project, [pile], lambda *told: seen.append(told[2]), lambda: len(seen) >= 2)
    assert first.stopped and len(seen) == 2 and len(project.images()) <= 2
    assert len(project.images()) == first.added
    gathering.gather(project, [pile])
    assert len(project.images()) == 4


def test_the_job_does_the_same_and_tells_how_far_it_is(project, pile, tmp_path):
    source = SourceConfig(paths=(str(pile),)).to_dict()
    config = {"root": str(project.root), "project": project.slug, "source": source}
    seen: list[dict] = []
    folder = project.new_folder("jobs", "gather")
    summary = run_inline(folder, "lora_studio.steps.gathering:job", config, listen=seen.append)
    assert summary["added"] == 4 and summary["refused"][0].keys() == {"file", "reason", "source"}
    assert [event["done"] for event in seen if event["event"] == "Progress"][-1] == 8
    lines, place = gathering.results(folder)
    found = {line["name"]: line["result"] for line in lines}
    assert len(lines) == 8 and gathering.results(folder, place) == ([], place)
    assert found["a.png"] == "added" and found["double.png"] == "already" and found["cut.png"] == "refused"
    ids = {image.name: image.id for image in project.images()}
    assert {line["id"] for line in lines if line["name"] in ("a.png", "double.png")} == {ids["a.png"]}
    assert all(line["reason"] for line in lines if line["result"] == "refused")


def test_a_job_in_the_background_imports_too(project, pile):
    jobs = Jobs(project.root)
    job = jobs.wait(gathering.start(project, jobs, [pile]).folder, 60)
    assert job.state == "done" and len(project.images()) == 4


@pytest.mark.parametrize(
    ("kind", "base", "count", "enough", "said"),
    [
        ("style", "starter", 24, True, "24 work with the starter"),
        ("style", "starter", 12, False, "50 or more are usual"),
        ("style", "/models/sd15", 24, False, "Fewer can work"),
        ("character", "starter", 15, True, "right for a character"),
        ("character", "starter", 14, False, "15 or more are usual"),
        ("concept", "/models/sd15", 101, True, "Keep the best"),
    ],
)
def test_the_meter_advises_and_always_names_the_guides_range(kind, base, count, enough, said):
    meter = gathering.meter(Plan(name="x", kind=kind, base=base), count)
    low, high = dataset.TARGETS[kind]
    assert said in meter["text"] and f"{low} to {high}" in meter["text"]
    assert (meter["low"], meter["high"]) == (low, high) and (count >= meter["enough"]) is enough


@pytest.mark.parametrize("kind", ["character", "style", "concept"])
def test_a_samples_good_pictures_are_enough(kind):
    """Those that are no planted bad ones: the first step never asks for more than the sample has."""
    found = conception.sample(kind)
    good = [path for path in found.pictures.glob("*.png") if path.stem.rpartition("_")[2].isdecimal()]
    assert len(good) >= gathering.enough(found.plan)


def test_a_refused_file_is_listed_until_it_can_be_taken(project, pile):
    gathering.gather(project, [pile])
    gathering.gather(project, [pile])
    listed = {row["name"]: row for row in project.quarantined()}
    assert set(listed) == {"notes.png", "empty.png", "cut.png"} and len(project.quarantined()) == 3
    assert listed["empty.png"]["reason"] == "the file is empty (0 bytes)"
    assert listed["empty.png"]["source"] == str(pile)
    (pile / "empty.png").write_bytes(picture(9))
    assert gathering.gather(project, [pile]).added == 1
    assert {row["name"] for row in project.quarantined()} == {"notes.png", "cut.png"}


def test_what_the_user_says_of_a_source_is_kept_and_never_covers_what_the_source_says(project, pile):
    other = Project.create(project.root, Plan(name="other"))
    gathering.gather(other, SourceConfig(paths=(str(pile),), author="Ada"))
    assert {image.author for image in other.images()} == {"Ada"}
    gathering.gather(project, SourceConfig(kind="project", project="other", author="Bob", licence="CC0-1.0"))
    assert {(image.author, image.licence) for image in project.images()} == {("Ada", "CC0-1.0")}


def test_origins_are_edited_together_and_taken_back_at_once(project, pile):
    gathering.gather(project, [pile])
    ids = [image.id for image in project.images()]
    gathering.set_provenance(project, ids[:3], author="Ada", licence="CC BY 4.0")
    assert [image.author for image in project.images()] == ["Ada"] * 3 + [""]
    assert project.undo() == "Origin of 3 pictures"
    assert {image.author for image in project.images()} == {""}
    with pytest.raises(UserError, match="autor"):
        gathering.set_provenance(project, ids, autor="Ada")


def test_credits_are_grouped_and_tell_nothing_of_this_machine(project, pile):
    gathering.gather(project, [pile])
    ids = [image.id for image in project.images()]
    gathering.set_provenance(project, ids[:2], author="Ada", licence="CC BY 4.0", url="https://art.example/7")
    rows = gathering.credits(project)
    assert [(row["author"], row["source"], row["count"]) for row in rows] == [
        ("", pile.name, 2),
        ("Ada", "art.example", 2),
    ]
    text = gathering.credits_text(project)
    assert "Ada, CC BY 4.0: 2 pictures from art.example" in text and "https://art.example/7" in text
    assert "Nothing is known of the origin of 2 pictures." in text and str(pile.parent) not in text


def test_nothing_known_gives_no_credits(project, pile):
    gathering.gather(project, [pile])
    assert gathering.credits_text(project) == ""


def test_what_to_look_for_next_follows_from_the_plan_and_the_captions(project, pile):
    project.save_plan(project.plan.with_changes({"varies": ["hat", "café"]}))
    assert "more pictures" in " ".join(gathering.next_to_find(project))
    gathering.gather(project, [pile])
    said = " ".join(gathering.next_to_find(project))
    assert "no caption names them: hat" in said and "café" not in said
    assert "11 more pictures" in said


def test_what_to_look_for_next_names_what_no_picture_shows(project, pile):
    project.save_plan(project.plan.with_changes({"varies": ["expression"]}))
    gathering.gather(project, [pile])
    with project.edit("captions") as edit:
        for image in project.images():
            edit.set(image.id, caption="zorbi, close-up, smile")
    said = gathering.next_to_find(project)
    assert any(line.startswith("Framing: ") and "full body" in line for line in said), said
    assert "no caption names them" not in " ".join(said)  # how they vary is asked by the aspect


@pytest.mark.parametrize("kind", ["paths", "urls", "booru", "video", "project", "hub"])
def test_a_source_that_is_not_said_is_named_before_anything_is_begun(project, tmp_path, kind):
    with pytest.raises(SettingsError, match="is empty"):
        gathering.start(project, Jobs(project.root), SourceConfig(kind=kind))
    assert not (project.folder / "jobs").exists()
