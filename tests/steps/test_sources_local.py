"""Folders, zips, data sets of other programs and other projects; what is hostile or odd among them."""

import hashlib
import io
import json
import os
import stat
import struct
import unicodedata
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lora_studio.core.errors import UserError
from lora_studio.core.project import Plan, Project
from lora_studio.steps import curation, gathering
from lora_studio.steps.sources import archives, local
from lora_studio.steps.sources.config import SourceConfig
from tests.conftest import draw_picture


@pytest.fixture
def project(projects: Path) -> Project:
    return Project.create(projects, Plan(name="x"))


@pytest.fixture
def pile(tmp_path: Path) -> Path:
    folder = tmp_path / "pile"
    folder.mkdir()
    return folder


def names(project: Project) -> list[str]:
    return [image.name for image in project.images()]


def captions(project: Project) -> dict[str, str]:
    return {image.name: image.caption for image in project.images()}


def reasons(result: gathering.Gathered) -> dict[str, str]:
    return {one.file: one.reason for one in result.refused}


def hashes(folder: Path) -> dict[Path, str]:
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


# --- folders ----------------------------------------------------------------------------------------------------------


def test_names_that_differ_by_case_ending_or_unicode_form_stay_apart_with_their_captions(project, pile):
    composed, parted = (unicodedata.normalize(form, "é.png") for form in ("NFC", "NFD"))
    for seed, name in enumerate(["a.png", "A.png", "a.jpg", "a.b.jpg", "a.c.jpg", composed, parted]):
        form = "JPEG" if name.endswith("jpg") else "PNG"
        (pile / name).write_bytes(draw_picture(seed, form=form))
        (pile / f"{name}.txt").write_text(f"caption {seed}")
    assert len(list(pile.iterdir())) == 14, "this file system takes some of these names for one"
    gathering.gather(project, [pile])
    found = captions(project)
    assert len(found) == 7 and len(set(found.values())) == 7
    assert found["a.png"] == "caption 0" and found["A.png"] == "caption 1" and found[parted] == "caption 6"


def test_a_caption_goes_with_the_name_before_the_last_dot(project, pile):
    for seed, name in enumerate(["a.b.jpg", "a.c.jpg"]):
        (pile / name).write_bytes(draw_picture(seed, form="JPEG"))
        (pile / name).with_suffix(".txt").write_text(name)
    gathering.gather(project, [pile])
    assert captions(project) == {"a.b.jpg": "a.b.jpg", "a.c.jpg": "a.c.jpg"}


@pytest.mark.parametrize(
    ("data", "caption"),
    [
        ("zorbi, café".encode(), "zorbi, café"),
        ("zorbi, café".encode("utf-8-sig"), "zorbi, café"),
        ("zorbi, café".encode("utf-16"), "zorbi, café"),
        (b"it\x92s zorbi", "it’s zorbi"),
        ("青い髪, 帽子".encode("cp932"), "青い髪, 帽子"),
        (b"zorbi,\r\nhat\r\n", "zorbi, hat"),
        (b"zor\0bi, hat", "zorbi, hat"),
        (b"", ""),
        (b"word " * 250_000, ("word " * 250_000)[: 2**20].strip()),
    ],
    ids=["utf-8", "mark", "utf-16", "cp1252", "cp932", "crlf", "nul", "empty", "a megabyte"],
)
def test_captions_come_along_in_any_encoding(project, pile, data, caption):
    (pile / "a.png").write_bytes(draw_picture(1))
    (pile / "a.txt").write_bytes(data)
    assert gathering.gather(project, [pile]).added == 1
    assert captions(project) == {"a.png": caption}


def test_pictures_with_texts_beside_them_count_once(project, pile):
    for seed in range(4):
        (pile / f"{seed}.png").write_bytes(draw_picture(seed))
        (pile / f"{seed}.txt").write_text("hat")
    result = gathering.gather(project, [pile / f"{seed}{end}" for seed in range(4) for end in (".png", ".txt")])
    assert (result.added, result.already, result.captions, result.refused) == (4, 0, 4, [])


def test_links_are_followed_and_circles_of_them_end(project, pile, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "far.png").write_bytes(draw_picture(1))
    (pile / "near.png").write_bytes(draw_picture(2))
    (pile / "link").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(pile)
    (pile / "round").symlink_to(pile)
    (pile / "self").symlink_to("self")
    (pile / "nowhere.png").symlink_to("gone.png")
    result = gathering.gather(project, [pile])
    assert sorted(names(project)) == ["link/far.png", "near.png"]
    assert set(reasons(result)) == {"self", "nowhere.png"}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_named_and_not_waited_for(project, pile):
    os.mkfifo(pile / "pipe.png")
    (pile / "a.png").write_bytes(draw_picture(1))
    assert reasons(gathering.gather(project, [pile])) == {"pipe.png": "no ordinary file"}


def test_a_folder_that_vanishes_half_way_ends_the_import_and_keeps_what_was_taken(project, pile, tmp_path):
    for seed in range(60):
        (pile / f"{seed:02}.png").write_bytes(draw_picture(seed))
    gone = tmp_path / "gone"

    def report(done: int, total: int, name: str) -> None:
        if done == 5:
            pile.rename(gone)

    with pytest.raises(UserError, match="is gone") as caught:
        gathering.gather(project, [pile], report)
    assert "repeat" in caught.value.remedy
    taken = len(project.images())
    assert 5 < taken < 60
    assert project.quarantined() == []  # sixty lines would say nothing that the error does not
    gone.rename(pile)
    result = gathering.gather(project, [pile])
    assert (result.added, result.already) == (60 - taken, taken)


@pytest.mark.parametrize("where", ["", "originals", "thumbs"])
def test_a_projects_own_folder_is_refused_and_not_altered(project, pile, where):
    (pile / "a.png").write_bytes(draw_picture(1))
    gathering.gather(project, [pile])
    before = hashes(project.folder / "originals")
    with pytest.raises(UserError, match="belongs to the project"):
        gathering.gather(project, [project.folder / where])
    assert hashes(project.folder / "originals") == before and len(project.images()) == 1


def test_a_folder_that_contains_the_project_gives_only_what_lies_beside_it(project, pile):
    (pile / "a.png").write_bytes(draw_picture(1))
    gathering.gather(project, [pile])
    (project.root / "beside.png").write_bytes(draw_picture(2))
    before = hashes(project.folder / "originals") | {project.root / "beside.png": ""}
    result = gathering.gather(project, [project.root])
    assert result.added == 1 and reasons(result) == {
        project.slug: "a project of this program; take its pictures by its name"
    }
    assert before.keys() <= hashes(project.root).keys()


def test_more_files_than_can_be_are_named(project, pile, monkeypatch):
    monkeypatch.setattr(local, "MAX_FILES", 3)
    for seed in range(5):
        (pile / f"{seed}.png").write_bytes(draw_picture(seed))
    result = gathering.gather(project, [pile])
    assert result.added == 3 and "more than 3 files" in reasons(result)["3.png"]


@pytest.mark.parametrize(
    ("name", "word"), [("film.mp4", "Video"), ("set.rar", "unpack"), ("page.html", "not a picture")]
)
def test_what_is_no_picture_is_refused_with_what_to_do(project, pile, name, word):
    (pile / name).write_bytes(b"something else")
    assert word in reasons(gathering.gather(project, [pile]))[name]


def test_latents_of_other_trainers_and_system_files_are_passed_over(project, pile):
    for name in ("a_0512x0512_sdxl.npz", "Thumbs.db", ".DS_Store", "desktop.ini"):
        (pile / name).write_bytes(b"something else")
    (pile / "a.png").write_bytes(draw_picture(1))
    assert gathering.gather(project, [pile]).refused == []


# --- zips -------------------------------------------------------------------------------------------------------------


def zipped(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def test_a_zip_within_a_folder_is_read_with_its_captions(project, pile):
    zipped(pile / "set.zip", **{"5_zorbi/a.png": draw_picture(1), "5_zorbi/a.txt": b"hat", "b.zip": b"PK"})
    result = gathering.gather(project, [pile])
    assert captions(project) == {"set.zip/5_zorbi/a.png": "hat"} and project.images()[0].repeats == 5
    assert "a zip within a zip" in reasons(result)["set.zip/b.zip"]


def test_links_and_locked_files_in_a_zip_are_named(project, pile):
    link = zipfile.ZipInfo("link.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    locked = zipfile.ZipInfo("locked.png")
    with zipfile.ZipFile(pile / "set.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
        archive.writestr(locked, draw_picture(1))
        archive.writestr("good.png", draw_picture(2))
    data = (pile / "set.zip").read_bytes()
    place = data.rindex(b"PK\x01\x02", 0, data.rindex(b"locked.png"))
    (pile / "set.zip").write_bytes(data[: place + 8] + b"\x01" + data[place + 9 :])
    result = gathering.gather(project, [pile / "set.zip"])
    assert reasons(result) == {"link.png": "a link, not a file", "locked.png": "locked with a password"}
    assert names(project) == ["good.png"]


def test_two_files_of_one_name_in_a_zip_are_both_taken(project, pile):
    with zipfile.ZipFile(pile / "set.zip", "w") as archive:
        archive.writestr("a.png", draw_picture(1))
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a.png", draw_picture(2))
    assert gathering.gather(project, [pile / "set.zip"]).added == 2


def test_a_damaged_file_in_a_zip_is_named_and_the_others_are_taken(project, pile):
    path = zipped(pile / "set.zip", **{"a.png": draw_picture(1), "b.png": draw_picture(2)})
    data = bytearray(path.read_bytes())
    data[60:80] = bytes(20)
    path.write_bytes(data)
    result = gathering.gather(project, [path])
    assert names(project) == ["b.png"] and "damaged" in reasons(result)["a.png"]


def test_a_zip_of_a_million_files_is_refused_before_its_list_is_read(project, pile, monkeypatch):
    entry = b"PK\x01\x02" + bytes(24) + struct.pack("<H", 5) + bytes(16) + b"a.png"
    listed = entry * 1_000_000
    end = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 1, 1, len(listed), 0, 0)  # says that it is one
    (pile / "million.zip").write_bytes(listed + end)
    monkeypatch.setattr(zipfile, "ZipFile", None)  # would be called
    assert "split it" in reasons(gathering.gather(project, [pile / "million.zip"]))["million.zip"]


def test_a_zip_that_says_how_many_files_it_has_wrongly_is_still_bounded(project, pile):
    entry = b"PK\x01\x02" + bytes(24) + struct.pack("<H", 5) + bytes(16) + b"a.png"
    listed = entry * (archives.MAX_MEMBERS + 1)
    (pile / "lie.zip").write_bytes(listed + struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 1, 1, len(listed), 0, 0))
    assert f"it holds {archives.MAX_MEMBERS + 1} files" in reasons(gathering.gather(project, [pile]))["lie.zip"]


def directory(data: bytes) -> tuple[int, int]:
    """Where a zip's table of contents begins and ends."""
    end = data.rindex(b"PK\x05\x06")
    length, begin = struct.unpack_from("<II", data, end + 12)
    return begin, begin + length


def test_a_zip_whose_files_lie_over_one_another_is_refused(project, pile):
    """David Fifield's way to make a small file unpack to terabytes."""
    data = zipped(pile / "set.zip", **{"a.png": bytes(10**6)}).read_bytes()
    begin, finish = directory(data)
    listed = data[begin:finish] * 100
    end = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 100, 100, len(listed), begin, 0)
    (pile / "set.zip").write_bytes(data[:begin] + listed + end)
    assert "over one another" in reasons(gathering.gather(project, [pile]))["set.zip"]


def test_a_zip_that_would_fill_the_disk_is_refused(project, pile):
    data = bytearray(zipped(pile / "set.zip", **{"a.png": bytes(10**6)}).read_bytes())
    begin, _ = directory(bytes(data))
    struct.pack_into("<I", data, begin + 24, 0xFFFFFF00)  # the unpacked size: 4 GB
    (pile / "set.zip").write_bytes(data)
    assert "it would unpack to 4 GB" in reasons(gathering.gather(project, [pile]))["set.zip"]


def test_of_a_file_that_does_not_begin_like_a_picture_only_the_beginning_is_unpacked(project, pile, monkeypatch):
    zipped(pile / "set.zip", **{"a.png": bytes(10**7), "b.png": draw_picture(1)})
    asked: dict[str, int] = {}
    read = zipfile.ZipExtFile.read

    def counting(self: zipfile.ZipExtFile, size: int = -1) -> bytes:
        asked[self.name] = max(asked.get(self.name, 0), size)
        return read(self, size)

    monkeypatch.setattr(zipfile.ZipExtFile, "read", counting)
    result = gathering.gather(project, [pile])
    assert "not a picture" in reasons(result)["set.zip/a.png"]
    assert asked["a.png"] == 16 < asked["b.png"]


# --- data sets of other programs --------------------------------------------------------------------------------------


def test_kohyas_folders_and_lists_bring_captions_and_repeats(project, pile):
    for seed, folder in enumerate(["10_zorbi", "3_hat"]):
        (pile / folder).mkdir()
        (pile / folder / "one.png").write_bytes(draw_picture(seed))
        (pile / folder / f"two.{seed}.png").write_bytes(draw_picture(seed + 10))
    listed = {
        r"C:\train\10_zorbi\one.png": {"caption": "a zorbi", "tags": "smile, hat"},
        r"C:\train\3_hat\one": {"tags": "a hat", "train_resolution": [512, 512]},
        "/home/me/train/3_hat/two.1": {"caption": "another hat"},
    }
    (pile / "meta_lat.json").write_text(json.dumps(listed))
    result = gathering.gather(project, [pile])
    assert result.refused == []
    assert captions(project) == {
        "10_zorbi/one.png": "a zorbi, smile, hat",
        "10_zorbi/two.0.png": "",
        "3_hat/one.png": "a hat",
        "3_hat/two.1.png": "another hat",
    }
    assert {image.repeats for image in project.images() if image.name.startswith("10_")} == {10}


def test_a_list_that_says_two_things_of_a_name_is_not_guessed_at(project, pile):
    (pile / "one.png").write_bytes(draw_picture(1))
    listed = {"/a/one.png": {"caption": "this"}, "/b/one.png": {"caption": "that"}}
    (pile / "meta.json").write_text(json.dumps(listed))
    gathering.gather(project, [pile])
    assert captions(project) == {"one.png": ""}


@pytest.mark.parametrize("column", ["text", "caption", "prompt"])
def test_lists_of_the_hub_bring_captions(project, pile, column):
    (pile / "train").mkdir()
    for seed in range(3):
        (pile / "train" / f"{seed}.png").write_bytes(draw_picture(seed))
    rows = [{"file_name": "0.png", column: "zorbi, café"}, {"file_name": "./1.png", column: ["hat", "smile"]}]
    lines = [json.dumps(row) for row in rows]
    (pile / "train" / "metadata.jsonl").write_text("\n".join([lines[0], "{broken", lines[1]]), "utf-8")
    (pile / "train" / "2.txt").write_text("a text beside counts more")
    result = gathering.gather(project, [pile])
    assert captions(project) == {
        "train/0.png": "zorbi, café",
        "train/1.png": "hat, smile",
        "train/2.png": "a text beside counts more",
    }
    assert reasons(result) == {"train/metadata.jsonl": "line 2 is no JSON"}


def test_a_table_of_the_hub_is_read_from_a_zip_too(project, pile):
    table = 'file_name,text\r\na.png,"zorbi, hat"\r\n'.encode("utf-8-sig")
    zipped(pile / "set.zip", **{"a.png": draw_picture(1), "metadata.csv": table})
    assert gathering.gather(project, [pile / "set.zip"]).captions == 1
    assert captions(project) == {"a.png": "zorbi, hat"}


@pytest.mark.parametrize("text", ["[" * 100_000, "{", "[1]", '{"a": 1}', "\0"])
def test_a_json_file_that_is_no_list_is_named(project, pile, text):
    (pile / "meta.json").write_text(text)
    assert set(reasons(gathering.gather(project, [pile]))) == {"meta.json"}


# --- another project --------------------------------------------------------------------------------------------------


def test_another_projects_pictures_come_with_all_that_was_done_to_them(project, pile):
    other = Project.create(project.root, Plan(name="Other"))
    for seed in range(3):
        (pile / f"{seed}.png").write_bytes(draw_picture(seed))
        (pile / f"{seed}.txt").write_text(f"zorbi, {seed}")
    gathering.gather(other, [pile])
    first, second, third = (image.id for image in other.images())
    curation.keep(other, [first])
    curation.reject(other, [second], "blurred")
    with other.edit("more") as edit:
        mask = other.add_mask(draw_picture(9))
        edit.set(
            third,
            crop=(0.1, 0.1, 0.9, 0.9),
            more_crops=[(0, 0, 0.5, 0.5)],
            mask=mask,
            repeats=4,
            author="Ada",
            prose="A, b. C",
        )
    result = gathering.gather(project, SourceConfig(kind="project", project="other"))
    assert (result.added, result.refused) == (3, [])
    kept = (
        "name",
        "sha256",
        "caption",
        "prose",
        "decision",
        "reason",
        "crop",
        "more_crops",
        "mask",
        "repeats",
        "author",
        "source",
    )
    for mine, theirs in zip(project.images(), other.images(), strict=True):
        assert {name: getattr(mine, name) for name in kept} == {name: getattr(theirs, name) for name in kept}
    assert project.mask_path(project.images()[2]).read_bytes() == draw_picture(9)
    assert len(other.images()) == 3


@pytest.mark.parametrize("name", ["x", "nobody", "../x", ""])
def test_a_project_is_not_taken_from_itself_nor_from_nowhere(project, name):
    with pytest.raises((UserError, ValueError)):
        gathering.gather(project, SourceConfig(kind="project", project=name))


# --- all at once ------------------------------------------------------------------------------------------------------


def test_odd_pictures_are_taken_and_bad_ones_named_and_the_import_ends(project, pile):
    odd = {
        "cmyk.jpg": Image.new("CMYK", (40, 30), (0, 255, 255, 0)),
        "grey16.png": Image.fromarray(np.full((30, 40), 40_000, np.uint16)),
        "palette.png": Image.new("P", (40, 30), 3),
        "animated.gif": Image.new("RGB", (40, 30), "red"),
    }
    options: dict[str, dict] = {
        "palette.png": {"transparency": 3},
        "animated.gif": {"save_all": True, "append_images": [Image.new("RGB", (40, 30), "blue")]},
    }
    for name, image in odd.items():
        image.save(pile / name, **options.get(name, {}))
    whole = draw_picture(1)
    bomb = whole[:16] + struct.pack(">II", 60_000, 60_000) + whole[24:29]
    bad = {
        "cut.png": (whole[:200], "damaged"),
        "empty.png": (b"", "empty"),
        "wrong.png": (b"PK\x03\x04 something", "not a picture"),
        "bomb.png": (bomb + struct.pack(">I", zlib.crc32(bomb[12:])) + whole[33:], "too many pixels"),
        "strip.png": (png(Image.new("1", (30_000, 20))), "strip"),
        "dot.png": (png(Image.new("RGB", (1, 1))), "too small"),
        "open.jxl": (b"\xff\x0a" + bytes(50), ""),
        "open.heic": (b"\0\0\0\x1cftypheic" + bytes(50), ""),
    }
    for name, (data, _) in bad.items():
        (pile / name).write_bytes(data)
    before = hashes(pile)
    result = gathering.gather(project, [pile])
    assert sorted(names(project)) == sorted(odd)
    assert set(reasons(result)) == set(bad) == {row["name"] for row in project.quarantined()}
    assert all(word in reasons(result)[name] for name, (_, word) in bad.items())
    assert hashes(pile) == before
    for image in project.images():
        assert project.original_path(image).read_bytes() == (pile / image.name).read_bytes()


@pytest.mark.parametrize("count", [1, 2, 151])
def test_all_captions_of_any_number_of_pictures_come_along(project, pile, count):
    for seed in range(count):
        (pile / f"{seed}.png").write_bytes(draw_picture(seed, (32, 32)))
        (pile / f"{seed}.txt").write_text(f"number {seed}")
    result = gathering.gather(project, [pile])
    assert (result.added, result.captions) == (count, count)
    assert captions(project) == {f"{seed}.png": f"number {seed}" for seed in range(count)}
    curation.reject(project, [project.images()[0].id])
    assert captions(project) == {f"{seed}.png": f"number {seed}" for seed in range(count)}


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
