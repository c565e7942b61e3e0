import hashlib
import io
import multiprocessing
import sqlite3
import threading
from contextlib import closing

import pytest
from PIL import Image as Pil

from lora_studio.core.errors import UserError
from lora_studio.core.images import WHITE
from lora_studio.core.project import Arrival, Plan, Project


def add(project: Project, colour: str, **fields) -> int:
    buffer = io.BytesIO()
    Pil.new("RGB", (64, 48), colour).save(buffer, "PNG")
    data = buffer.getvalue()
    digest = hashlib.sha256(data).hexdigest()
    row = {"name": f"{colour}.png", "width": 64, "height": 48, **fields}
    return project.add_images([Arrival(data, digest, ".png", b"thumb", WHITE, row)])[digest]


@pytest.fixture
def project(tmp_path) -> Project:
    return Project.create(tmp_path, Plan(name="Zorbi", trigger="zorbi"))


def test_a_plan_survives_its_file(tmp_path):
    plan = Plan(name='Ünï "中文" (x) &', kind="style", trigger="ink", description="two\nlines", defining=("a, b", "c"))
    project = Project.create(tmp_path, plan)
    assert project.slug == "uni-x"
    assert Project.open(tmp_path, "uni-x").plan == plan
    assert Project.create(tmp_path, plan).slug == "uni-x-2"


@pytest.mark.parametrize("name", ["../zorbi", "/etc", "", ".", "nobody"])
def test_an_unknown_project_is_refused_with_those_there_are(project, name):
    with pytest.raises(UserError, match=r"zorbi|outside"):
        Project.open(project.root, name)


def test_a_picture_keeps_its_bytes_and_numbers(project):
    image = project.image(add(project, "red", phash=2**64 - 1, signature=b"\1\2", sharpness=0.5))
    assert hashlib.sha256(project.original_path(image).read_bytes()).hexdigest() == image.sha256
    assert (image.phash, image.signature, image.used) == (2**64 - 1, b"\1\2", True)


def test_undo_and_redo_go_back_and_forth_over_restarts(project):
    first, second = add(project, "red"), add(project, "blue")
    with project.edit("Tag two pictures") as edit:
        edit.set(first, caption="zorbi, red", crop=(0, 0, 0.5, 1))
        edit.set(second, caption="zorbi, blue")
    with project.edit("Reject one") as edit:
        edit.set(second, decision="reject", reason="blurred")
    again = Project.open(project.root, project.slug)
    assert again.undo_label() == "Reject one" and again.undo() == "Reject one"
    assert again.image(second).decision == "new"
    assert again.undo() == "Tag two pictures" and again.undo() is None
    assert [(image.caption, image.crop) for image in again.images()] == [("", None), ("", None)]
    assert again.redo() == "Tag two pictures" and again.redo() == "Reject one" and again.redo() is None
    assert [(image.caption, image.decision) for image in again.images()] == [
        ("zorbi, red", "new"),
        ("zorbi, blue", "reject"),
    ]
    assert again.image(first).crop == (0.0, 0.0, 0.5, 1.0)


def test_a_new_edit_ends_what_could_be_redone(project):
    image = add(project, "red")
    with project.edit("one") as edit:
        edit.set(image, caption="one")
    project.undo()
    with project.edit("two") as edit:
        edit.set(image, caption="two")
    assert project.redo() is None and project.image(image).caption == "two"


def test_an_error_inside_an_edit_changes_nothing(project):
    image, before = add(project, "red"), project.revision

    def half():
        with project.edit("half") as edit:
            edit.set(image, caption="half")
            edit.set(999, caption="half")

    with pytest.raises(UserError, match="picture 999"):
        half()
    assert project.image(image).caption == "" and project.undo_label() is None and project.revision == before


@pytest.mark.parametrize(
    "values", [{"decision": "perhaps"}, {"crop": (0.5, 0, 0.4, 1)}, {"crop": (0, 0, 2, 1)}, {"repeats": 0}]
)
def test_values_that_cannot_be_are_refused(project, values):
    image = add(project, "red")
    with pytest.raises(UserError), project.edit("bad") as edit:
        edit.set(image, **values)


def _caption(root, slug, image, text):
    project = Project.open(root, slug)
    for number in range(20):
        with project.edit(text) as edit:
            edit.set(image, caption=f"{text} {number}")


def test_two_processes_write_without_losing_anything(project):
    images = [add(project, colour) for colour in ("red", "blue")]
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=_caption, args=(project.root, project.slug, image, f"w{image}")) for image in images
    ]
    before = project.revision
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [project.image(image).caption for image in images] == [f"w{image} 19" for image in images]
    assert project.revision == before + 40


def test_folders_are_numbered_on(project):
    names = [project.new_folder("runs", "Zorbi v1").name for _ in range(3)]
    assert names == ["zorbi-v1-1", "zorbi-v1-2", "zorbi-v1-3"]


def test_a_project_goes_to_the_trash_whole(project):
    add(project, "red")
    target = project.trash()
    assert not project.folder.exists() and (target / "project.db").exists() and Project.all(project.root) == []


def test_two_projects_of_one_name_trashed_in_one_second_lie_side_by_side(project):
    first = project.trash()
    second = Project.create(project.root, Plan(name="Zorbi")).trash()
    assert first != second and (first / "project.toml").exists() and (second / "project.toml").exists()


def test_when_it_was_touched_is_told_while_the_database_is_opened_and_closed_by_others(project):
    wal, over = project.folder / "project.db-wal", threading.Event()

    def come_and_go():
        while not over.is_set():
            wal.touch()
            wal.unlink()

    other = threading.Thread(target=come_and_go)
    other.start()
    try:
        assert all(project.touched > 0 for _ in range(3000))
    finally:
        over.set()
        other.join()


def test_a_database_of_a_newer_program_is_refused(project):
    import sqlite3

    with sqlite3.connect(project.folder / "project.db") as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(UserError, match="newer"):
        Project.open(project.root, project.slug)


def test_a_broken_database_is_named(project):
    (project.folder / "project.db").write_bytes(b"not a database" * 100)
    with pytest.raises(UserError, match=r"project\.db"):
        Project.open(project.root, project.slug)


def test_a_maybe_is_set_aside_and_further_crops_masks_and_provenance_can_be_undone(project):
    image_id = add(project, "red", source="folder", author="Ann")
    mask = project.add_mask(b"png bytes")
    with project.edit("Everything") as edit:
        edit.set(image_id, decision="maybe", crop=(0, 0, 0.5, 1), more_crops=[(0.5, 0, 1, 1)], mask=mask, licence="CC0")
    image = project.image(image_id)
    assert not image.used and image.crops == ((0, 0, 0.5, 1), (0.5, 0, 1, 1))
    assert project.mask_path(image).read_bytes() == b"png bytes" and (image.licence, image.author) == ("CC0", "Ann")
    project.undo()
    image = project.image(image_id)
    assert image.used and image.crops == (None,) and project.mask_path(image) is None and image.licence == ""
    for wrong in ({"more_crops": [(0.5, 0, 0.4, 1)]}, {"author": "x" * 3000}, {"decision": "perhaps"}):
        with pytest.raises(UserError), project.edit("Wrong") as edit:
            edit.set(image_id, **wrong)


def test_a_project_of_the_first_schema_is_brought_up_to_date(project):
    image_id = add(project, "red")
    with project.edit("Crop") as edit:
        edit.set(image_id, crop=(0, 0, 0.5, 1))
    path = project.folder / "project.db"
    with closing(sqlite3.connect(path)) as connection:
        for column in ("more_crops", "mask", "url", "author", "licence", "consent", "origin", "prose"):
            connection.execute(f"ALTER TABLE images DROP COLUMN {column}")
        connection.execute("DROP TABLE quarantine")
        connection.execute("PRAGMA user_version = 1")
        connection.commit()
    again = Project.open(project.root, project.slug)
    assert again.image(image_id).crops == ((0, 0, 0.5, 1),)
    assert again.undo() == "Crop" and again.image(image_id).crops == (None,)


def test_refused_files_are_listed_once_until_they_are_forgotten(project):
    project.quarantine([("a.png", "pile", "empty"), ("b.png", "pile", "cut")])
    project.quarantine([("a.png", "pile", "empty (0 bytes)")])
    listed = project.quarantined()
    assert {one["name"]: one["reason"] for one in listed} == {"a.png": "empty (0 bytes)", "b.png": "cut"}
    project.forget_quarantine([one["id"] for one in listed])
    assert project.quarantined() == []
