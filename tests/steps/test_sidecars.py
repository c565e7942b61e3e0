"""Captions as files: written for other programs and never over theirs, read in any encoding, watched for edits."""

import json
import os
import zipfile
from pathlib import Path

import pytest

from lora_studio.core.errors import UserError
from lora_studio.core.project import Plan, Project
from lora_studio.steps import captioning, curation, sidecars, watching
from lora_studio.steps.sources import datasets, local
from tests.core.test_project import add


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder of another program."""
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def texts(project: Project, field: str = "caption") -> list[str]:
    return list(project.texts(field).values())


def project_of(projects: Path, pictures: dict[str, str], field: str = "caption", **plan) -> Project:
    """A project with one picture for each name, and its caption."""
    project = Project.create(projects, Plan(**{"name": "Zorbi", "trigger": "zorbi", **plan}))
    for number, (name, text) in enumerate(pictures.items()):
        add(project, f"#{number:06x}", **{"name": name, field: text})
    return project


def files(folder: Path) -> dict[str, str]:
    """Path -> text of all files below a folder."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes().decode() for path in found}


PICTURES = {"a.png": "zorbi, red hat, café 🎩", "sub/b.jpg": "hat, שלום", "c.png": ""}
WRITTEN = {
    "txt": {"a.txt": "zorbi, red hat, café 🎩", "sub/b.txt": "zorbi, hat, שלום"},
    "caption": {"a.caption": "zorbi, red hat, café 🎩", "sub/b.caption": "zorbi, hat, שלום"},
    "kohya": {"captions.json": {"a": {"tags": "zorbi, red hat, café 🎩"}, "sub/b": {"tags": "zorbi, hat, שלום"}}},
    "metadata.jsonl": {
        "metadata.jsonl": [
            {"file_name": "a.png", "text": "zorbi, red hat, café 🎩"},
            {"file_name": "sub/b.jpg", "text": "zorbi, hat, שלום"},
        ]
    },
}


def parsed(found: dict[str, str]) -> dict:
    return {
        name: json.loads(text)
        if name.endswith(".json")
        else [json.loads(line) for line in text.splitlines()]
        if name.endswith(".jsonl")
        else text
        for name, text in found.items()
    }


@pytest.mark.parametrize("form", WRITTEN)
def test_an_export_has_every_caption_with_the_trigger_first(projects, tmp_path, form):
    project = project_of(projects, PICTURES)
    result = sidecars.export(project, tmp_path / "out", form)
    assert parsed(files(tmp_path / "out")) == WRITTEN[form]
    assert (result.written, result.empty, result.kept) == (2, 1, ())
    zipped = sidecars.export(project, tmp_path / "out.zip", form).where
    with zipfile.ZipFile(zipped) as archive:
        assert parsed({name: archive.read(name).decode() for name in archive.namelist()}) == WRITTEN[form]
    for source in (tmp_path / "out", zipped):
        reading = sidecars.read(project, source)
        assert (reading.changes, reading.found, reading.unmatched, reading.problems) == ((), 2, (), ())


@pytest.mark.parametrize("form", WRITTEN)
@pytest.mark.parametrize("kind", ["tags", "prose", "both"])
def test_what_was_exported_gives_another_project_the_same_captions(projects, tmp_path, form, kind):
    project = project_of(projects, {"a.png": "zorbi, red hat", "b.png": "zorbi, smile"}, captions=kind)
    with project.edit("x") as edit:
        edit.set(1, prose="A zorbi, red, in a hat.")
    sidecars.export(project, tmp_path / "out", form)
    other = project_of(projects, {"a.png": "", "b.png": ""}, captions=kind, name="other")
    captioning.write(other, sidecars.read(other, tmp_path / "out"))
    whole = "A zorbi, red, in a hat."
    expected = {
        "tags": (["zorbi, red hat", "zorbi, smile"], ["", ""]),
        "prose": (["", ""], [whole, ""]),
        # one text of both, read where neither is known, cannot be parted for certain: what ends as a sentence is one
        "both": (["", "zorbi, smile"], [f"zorbi, red hat, {whole}", ""]),
    }[kind]
    if kind == "both" and form == "kohya":  # it has a place for each
        expected = (["zorbi, red hat", "zorbi, smile"], [whole, ""])
    assert (texts(other), texts(other, "prose")) == expected


def test_sentences_come_back_whole_and_tags_and_sentences_are_told_apart(projects, out):
    project = project_of(projects, {"a.png": "zorbi, hat", "b.png": "zorbi, cap", "c.png": "zorbi"}, captions="both")
    with project.edit("x") as edit:
        for image_id in (1, 2, 3):
            edit.set(image_id, prose="A robot, red, stands. It smiles.")
    sidecars.export(project, out)
    there = "zorbi, hat, A robot, red, stands. It smiles."
    assert (out / "a.txt").read_text() == there
    (out / "a.txt").write_text(there.replace("hat", "green hat"))
    (out / "b.txt").write_text("zorbi, cap, A robot,  blue, sits.")
    (out / "c.txt").write_text("zorbi, new tag, A robot, red, stands. It smiles.")
    captioning.write(project, sidecars.read(project, out))
    assert texts(project) == ["zorbi, green hat", "zorbi, cap", "zorbi, new tag"]
    whole = "A robot, red, stands. It smiles."
    assert texts(project, "prose") == [whole, "A robot,  blue, sits.", whole]


NAMES = {
    "../../evil.png": "evil.txt",
    "/etc/passwd.png": "etc/passwd.txt",
    "C:\\x\\y.png": "C_/x/y.txt",
    "CON.png": "_CON.txt",
    'a<b>:"|?*.png': "a_b______.txt",
    "dot. .png": "dot. .txt",
    "ünï 中文 (x) &.png": "ünï 中文 (x) &.txt",
    "same.png": "same.png.txt",
    "same.jpg": "same.jpg.txt",
    "Twice.webp": "Twice-10.txt",
    "twice.webp": "twice-11.txt",
    f"{'ü' * 300}.png": f"{'ü' * 58}.txt",
    "new\nline\0.png": "new_line_.txt",
    "..": "picture.txt",
}


def test_names_are_safe_on_every_system_and_no_two_are_one(projects, tmp_path):
    project = project_of(projects, {name: f"text of {place}" for place, name in enumerate(NAMES)}, trigger="")
    sidecars.export(project, tmp_path / "out")
    assert files(tmp_path / "out") == {name: f"text of {place}" for place, name in enumerate(NAMES.values())}
    assert sidecars.read(project, tmp_path / "out").changes == ()
    for form in ("kohya", "metadata.jsonl"):
        sidecars.export(project, tmp_path / form, form)
        reading = sidecars.read(project, tmp_path / form)
        assert (reading.changes, reading.found) == ((), len(NAMES))


def test_files_of_others_are_left_and_named_and_replaced_only_when_told_so_with_a_copy_kept(projects, out, tmp_path):
    project = project_of(projects, {"a.png": "zorbi, a", "b.png": "zorbi, b", "c.png": "zorbi, c"})
    (out / "a.txt").write_text("somebody's work")
    result = sidecars.export(project, out)
    assert (result.kept, result.written) == (("a.txt",), 2)
    assert files(out) == {"a.txt": "somebody's work", "b.txt": "zorbi, b", "c.txt": "zorbi, c"}
    (out / "b.txt").write_text("changed there")
    captioning.set_text(project, 2, "zorbi, b2")
    captioning.set_text(project, 3, "zorbi, c2")
    assert sidecars.export(project, out).kept == ("a.txt", "b.txt")
    assert files(out) == {"a.txt": "somebody's work", "b.txt": "changed there", "c.txt": "zorbi, c2"}
    result = sidecars.export(project, out, overwrite=True)
    assert files(out) == {"a.txt": "zorbi, a", "b.txt": "zorbi, b2", "c.txt": "zorbi, c2"}
    assert files(result.replaced) == {"a.txt": "somebody's work", "b.txt": "changed there"}
    sidecars.export(project, tmp_path / "x.zip")
    with pytest.raises(UserError, match="there already"):
        sidecars.export(project, tmp_path / "x.zip")
    captioning.set_text(project, 3, "")
    sidecars.export(project, out)
    assert (out / "c.txt").read_bytes() == b""


def test_an_export_goes_where_it_may_and_says_when_there_is_nothing_to_write(projects, tmp_path):
    project = project_of(projects, {"a.png": ""})
    with pytest.raises(UserError, match="None of the 1 pictures"):
        sidecars.export(project, tmp_path / "out")
    captioning.set_text(project, 1, "zorbi, hat")
    for target in (project.folder, project.folder / "originals"):
        with pytest.raises(UserError, match="belongs to the project"):
            sidecars.export(project, target)
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is a file"):
        sidecars.export(project, tmp_path / "file")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "a.txt").symlink_to(tmp_path / "file")
    with pytest.raises(UserError, match="leads outside"):
        sidecars.export(project, tmp_path / "links", overwrite=True)
    assert (tmp_path / "file").read_text() == "x"
    assert sidecars.export(project, project.new_folder("exports", "captions")).written == 1
    curation.reject(project, [1])
    with pytest.raises(UserError, match="no pictures"):
        sidecars.export(project, tmp_path / "out")


ENCODED = {
    "utf-8": "zorbi, café, 帽子".encode(),
    "utf-8 with mark": "zorbi, café, 帽子".encode("utf-8-sig"),
    "utf-16": "zorbi, café, 帽子".encode("utf-16"),
    "utf-16 without mark": "zorbi, café, hat".encode("utf-16-le"),
    "cp1252": "zorbi, café, naïve".encode("cp1252"),
    "cp932": "zorbi, ぼうし, 帽子".encode("cp932"),
    "crlf": b"zorbi, hat,\r\ncap\r\n",
    "nul": b"zorbi,\0 hat\0",
}
DECODED = {
    "utf-8": "zorbi, café, 帽子",
    "utf-8 with mark": "zorbi, café, 帽子",
    "utf-16": "zorbi, café, 帽子",
    "utf-16 without mark": "zorbi, café, hat",
    "cp1252": "zorbi, café, naïve",
    "cp932": "zorbi, ぼうし, 帽子",
    "crlf": "zorbi, hat, cap",
    "nul": "zorbi, hat",
}


def test_a_caption_is_read_in_whichever_encoding_it_was_saved(projects, out):
    project = project_of(projects, {f"{name}.png": "" for name in ENCODED})
    for name, data in ENCODED.items():
        (out / f"{name}.txt").write_bytes(data)
    reading = sidecars.read(project, out)
    assert [one.after for one in reading.changes] == list(DECODED.values()) and not reading.problems
    captioning.write(project, reading, reading.digest)
    assert texts(project) == list(DECODED.values()) and project.undo_label() == f"Captions from {out.name}"


def test_texts_find_their_pictures_by_name_with_and_without_ending(projects, out):
    names = ["a.png", "set/b.png", "set/c.png", "x/same.png", "y/same.png", "d.jpg", "Upper.PNG", "keep.png", "e.png"]
    project = project_of(projects, dict.fromkeys(names, ""))
    captioning.set_text(project, 8, "zorbi, kept")
    there = {
        "a.png.txt": "one", "b.txt": "two", "deep/c.caption": "three", "same.txt": "which", "D.JPG.TXT": "six",
        "upper.txt": "seven", "nobody.txt": "lost", "keep.txt": "", "e.txt": "x" * 2**20, "e.npz": "", "notes.md": "",
    }  # fmt: skip
    for name, text in there.items():
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text(text)
    reading = sidecars.read(project, out)
    assert {one.id: one.after for one in reading.changes} == {1: "one", 2: "two", 3: "three", 6: "six", 7: "seven"}
    assert reading.unmatched == ("nobody.txt",)
    problems = dict(reading.problems)
    assert problems.keys() == {"same.txt", "e.txt"} and "20000" in problems["e.txt"]
    page = reading.page()
    assert page["count"] == 5 and page["unmatched"] == ("nobody.txt",) and len(page["problems"]) == 3


def test_lists_of_other_programs_are_read(projects, out):
    project = project_of(projects, {"a.png": "", "b.png": "", "c.png": "zorbi, x"})
    kohya = {"D:\\train\\a.png": {"tags": "red hat, smile", "caption": "A hat."}, "/data/b": {"caption": "blue, sky"}}
    (out / "meta_lat.json").write_text(json.dumps(kohya))
    reading = sidecars.read(project, out)
    captioning.write(project, reading)
    assert texts(project) == ["red hat, smile", "blue, sky", "zorbi, x"] and texts(project, "prose")[0] == "A hat."
    (out / "meta_lat.json").write_text('{"a": ')
    assert "cannot be read" in sidecars.read(project, out).problems[0][1]


@pytest.mark.parametrize(
    ("name", "message"), [("nowhere", "does not exist"), ("x.txt", "no folder"), (".", "no captions")]
)
def test_what_is_no_source_of_captions_is_refused(projects, tmp_path, name, message):
    project = project_of(projects, {"a.png": "zorbi"})
    folder = tmp_path / "empty"
    folder.mkdir()
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(UserError, match=message):
        sidecars.read(project, folder / name if name == "." else tmp_path / name)


# --- watching -----------------------------------------------------------------------------------------------------


def written(path: Path, text: str) -> None:
    """Change a file as an editor does that keeps its time and size: only its bytes tell."""
    status = path.stat()
    path.write_text(text, "utf-8")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("form", ["txt", "caption", "kohya", "metadata.jsonl"])
def test_edits_of_other_programs_are_offered_and_taken_as_one_undo(projects, out, form):
    pictures = {f"{name}.png": f"zorbi, {name}" for name in "abcd"}
    project = project_of(projects, pictures)
    sidecars.export(project, out, form)
    assert watching.offer(project, out).changes == ()
    captioning.set_text(project, 2, "zorbi, ours")
    captioning.set_text(project, 3, "zorbi, ours too")
    changed = {"a": "zorbi, A", "c": "zorbi, C"}
    for path in out.iterdir():
        text = path.read_text("utf-8")
        for name, after in changed.items():
            text = text.replace(f"zorbi, {name}", after)
        written(path, text)
    offer = watching.offer(project, out)
    assert [(one.id, one.before, one.after) for one in offer.changes] == [(1, "zorbi, a", "zorbi, A")]
    assert [(one.id, one.before, one.after) for one in offer.conflicts] == [(3, "zorbi, ours too", "zorbi, C")]
    assert offer.ahead == 2 and offer.page()["conflicts"][0]["theirs"] == "zorbi, C"
    assert watching.take(project, out, offer.digest) == [1]
    assert texts(project) == ["zorbi, A", "zorbi, ours", "zorbi, ours too", "zorbi, d"]
    left = watching.offer(project, out)
    assert left.changes == () and [one.id for one in left.conflicts] == [3], "a conflict stays until it is decided"
    assert sidecars.export(project, out, form).kept, "and its file is not written over"
    assert watching.take(project, out, left.digest, theirs=[3]) == [3]
    assert texts(project)[2] == "zorbi, C" and watching.offer(project, out).conflicts == ()
    assert project.undo() == f"Captions from {out.name}" and texts(project)[2] == "zorbi, ours too"
    assert sidecars.export(project, out, form).kept == ()
    assert watching.offer(project, out).ahead == 0
    assert sidecars.read(project, out).changes == ()


@pytest.mark.parametrize("form", ["txt", "kohya"])
def test_of_a_conflict_ours_can_stay_and_is_written_there_next(projects, out, form):
    project = project_of(projects, {"a.png": "zorbi, a", "b.png": "zorbi, b"})
    sidecars.export(project, out, form)
    captioning.set_text(project, 1, "zorbi, ours")
    for path in out.iterdir():
        written(path, path.read_text().replace("zorbi, a", "zorbi, theirs"))
    assert watching.take(project, out, ours=[1]) == []
    assert texts(project)[0] == "zorbi, ours"
    offer = watching.offer(project, out)
    assert offer.changes == offer.conflicts == ()
    assert sidecars.export(project, out, form).kept == ()
    assert "zorbi, ours" in "".join(files(out).values())


def test_a_file_saved_anew_with_another_encoding_and_end_of_line_is_still_ours(projects, out):
    project = project_of(projects, {"a.png": "zorbi, café"})
    sidecars.export(project, out)
    (out / "a.txt").write_bytes("zorbi, café\r\n".encode("utf-16"))
    offer = watching.offer(project, out)
    assert offer.changes == offer.conflicts == ()
    captioning.set_text(project, 1, "zorbi, tea")
    assert sidecars.export(project, out).kept == () and files(out) == {"a.txt": "zorbi, tea"}


def test_new_emptied_and_missing_files_are_told_apart(projects, tmp_path):
    project = project_of(projects, {"a.png": "zorbi, a", "b.png": "zorbi, b", "new.png": "", "own.png": ""})
    folder = tmp_path / "out"
    sidecars.export(project, folder)
    captioning.set_text(project, 4, "zorbi, written here")
    (folder / "a.txt").write_text("")
    (folder / "b.txt").unlink()
    (folder / "new.txt").write_text("smile")
    (folder / "own.txt").write_text("written there")
    (folder / "readme.txt").write_text("not a caption")
    offer = watching.offer(project, folder)
    assert [(one.id, one.after) for one in offer.changes] == [(1, ""), (3, "smile")]
    assert [(one.id, one.after) for one in offer.conflicts] == [(4, "zorbi, written there")]
    assert (offer.gone, offer.unmatched, offer.missing) == (("b.txt",), ("readme.txt",), False)
    folder.rename(tmp_path / "elsewhere")
    assert watching.offers(project)[0].missing
    watching.forget(project, folder)
    assert watching.offers(project) == []
    with pytest.raises(UserError, match="Nothing was exported"):
        watching.offer(project, folder)


def test_an_offer_that_is_no_longer_true_is_refused(projects, out):
    project = project_of(projects, {"a.png": "zorbi, a", "b.png": "zorbi, b"})
    sidecars.export(project, out)
    (out / "a.txt").write_text("zorbi, there")
    seen = watching.offer(project, out).digest
    (out / "a.txt").write_text("zorbi, there again")
    with pytest.raises(UserError, match="changed since"):
        watching.take(project, out, seen)
    seen = watching.offer(project, out).digest
    captioning.set_text(project, 1, "zorbi, here")
    with pytest.raises(UserError, match="changed since"):
        watching.take(project, out, seen)
    assert texts(project) == ["zorbi, here", "zorbi, b"]


def test_a_list_with_tags_still_gives_a_gathering_both_as_one_caption(out, projects):
    """What reading a list for an import of pictures gave before tags were kept apart."""
    lists = datasets.Lists()
    path = out / "meta.json"
    path.write_text(json.dumps({"a": {"caption": "A hat.", "tags": "hat, red"}}))
    [entry] = local.walk(out)
    assert list(lists.read(entry)) == []
    assert lists.caption(datasets.Entry("x/a.png", entry.read)) == "A hat., hat, red"
