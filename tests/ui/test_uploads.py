"""Files on their way in, who may name a path, and keys that never come out."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from filelock import FileLock

from lora_studio.core.errors import UserError
from lora_studio.core.project import Plan, Project
from lora_studio.steps import gathering, looking
from lora_studio.ui import uploads
from lora_studio.ui.server import make_app
from lora_studio.ui.uploads import Uploads
from tests.ui.test_server import rpc
from tests.vision.test_video import film, scene


@pytest.fixture
def waiting(tmp_path: Path) -> Uploads:
    return Uploads(tmp_path / "uploads")


def test_an_upload_goes_on_at_the_byte_where_it_broke_off(waiting):
    data, batch = bytes(range(256)) * 20, waiting.begin()
    assert waiting.write(batch, "a/b.bin", 0, data[:1000]) == 1000
    assert waiting.write(batch, "a/b.bin", 4000, data[4000:]) == 1000  # a gap is not written; it says where to go on
    assert waiting.write(batch, "a/b.bin", 1000, b"") == 1000
    assert waiting.write(batch, "a/b.bin", 1000, data[1000:]) == len(data)
    assert (waiting.path(batch) / "a" / "b.bin").read_bytes() == data


def test_a_piece_that_comes_again_late_cuts_nothing_off(waiting):
    data, batch = bytes(range(256)) * 4, waiting.begin()
    waiting.write(batch, "b.bin", 0, data[:500])
    waiting.write(batch, "b.bin", 500, data[500:])
    assert waiting.write(batch, "b.bin", 0, data[:500]) == len(data)
    assert (waiting.path(batch) / "b.bin").read_bytes() == data


def test_too_many_files_at_once_are_refused_also_after_a_restart(waiting, monkeypatch):
    monkeypatch.setattr(uploads, "MAX_BATCH_FILES", 3)
    batch = waiting.begin()
    for name in "abc":
        waiting.write(batch, name, 0, b"x")
    for one in (waiting, Uploads(waiting.folder)):
        with pytest.raises(UserError, match="More than 3 files"):
            one.write(batch, "d", 0, b"x")
        assert one.write(batch, "a", 1, b"y") == 2  # one that is there already goes on


def test_a_file_that_is_too_large_is_refused_by_name(waiting, monkeypatch):
    monkeypatch.setattr(uploads, "MAX_FILE", 10)
    batch = waiting.begin()
    waiting.write(batch, "film.mp4", 0, b"x" * 10)
    with pytest.raises(UserError, match=r"film\.mp4 is too large"):
        waiting.write(batch, "film.mp4", 10, b"x")


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("projects")


@pytest.fixture(scope="module")
def app(projects: Path) -> Iterator[FastAPI]:
    made = make_app(projects, hosts=("127.0.0.1", "localhost", "studio.share.test"))
    yield made
    jobs = made.state.studio.jobs
    for job in jobs.all():
        if job.is_alive:
            jobs.command(job.folder, "stop")


@pytest.fixture
def owner(app) -> Iterator[TestClient]:
    with TestClient(app, base_url="http://127.0.0.1:7860", client=("127.0.0.1", 50_000)) as client:
        yield client


@pytest.fixture
def project(projects: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setenv("LORA_STUDIO_CONFIG", str(tmp_path / "settings"))
    return Project.create(projects, Plan(name="Zorbi"))


def ended(client: TestClient, project: Project) -> dict:
    """The last import once it has ended."""
    for _ in range(600):
        job = rpc(client, "gathering.info", project=project.slug).json()["value"]["job"]
        if job["state"] in ("done", "failed"):
            return job
        time.sleep(0.1)
    raise AssertionError(job)


def test_the_owner_imports_a_folder_by_its_path(owner, project, picture_folder):
    source = {"kind": "paths", "paths": [f'"{picture_folder(2)}"'], "author": "Ann"}
    assert rpc(owner, "gathering.sources", project=project.slug).json()["value"]["owner"] is True
    name = rpc(owner, "gathering.start", project=project.slug, source=source).json()["value"]
    assert ended(owner, project)["state"] == "done"
    assert [image.author for image in project.images()] == ["Ann", "Ann"]
    told = rpc(owner, "gathering.results", project=project.slug, job=name).json()["value"]
    assert [row["result"] for row in told["rows"]] == ["added", "added"]
    later = rpc(owner, "gathering.results", project=project.slug, job=name, since=told["next"]).json()["value"]
    assert later["rows"] == []


@pytest.mark.parametrize(
    ("address", "base", "headers"),
    [
        ("192.168.1.20", "http://127.0.0.1:7860", {}),
        ("127.0.0.1", "http://studio.share.test", {}),
        ("127.0.0.1", "http://127.0.0.1:7860", {"X-Forwarded-For": "203.0.113.9"}),
        ("127.0.0.1", "http://localhost:7860", {"Forwarded": "for=203.0.113.9"}),
    ],
)
@pytest.mark.parametrize("kind", ["paths", "video"])
def test_nobody_else_can_name_a_path_of_the_machine(app, project, picture_folder, address, base, headers, kind):
    source = {"kind": kind, "paths": [str(picture_folder(1))]}
    with TestClient(app, base_url=base, client=(address, 50_000)) as guest:
        assert rpc(guest, "gathering.sources", headers, project=project.slug).json()["value"]["owner"] is False
        error = rpc(guest, "gathering.start", headers, project=project.slug, source=source).json()["error"]
    assert "only on that machine" in error["message"]
    assert not (project.folder / "jobs").exists()


def test_a_video_that_was_dropped_gives_its_frames(owner, project, tmp_path):
    seen = film(tmp_path / "film.mp4", [scene(seed) for seed in (1, 2) for _ in range(10)])
    batch = rpc(owner, "gathering.begin", project=project.slug).json()["value"]
    owner.post(f"/upload/{batch}?name=film.mp4&offset=0", content=seen.read_bytes())
    source = {"kind": "video", "seconds": 0.5, "frames": 7, "consent": "all agreed"}
    rpc(owner, "gathering.uploaded", project=project.slug, batch=batch, source=source)
    job = ended(owner, project)
    assert job["added"] == 2 and job["source"] == "videos from your computer"
    assert {(image.source, image.consent) for image in project.images()} == {("upload", "all agreed")}


def test_a_source_without_what_it_needs_names_the_field(owner, project):
    for kind, name in {
        "urls": "urls",
        "booru": "tags",
        "hub": "dataset",
        "project": "project",
        "paths": "paths",
    }.items():
        error = rpc(owner, "gathering.start", project=project.slug, source={"kind": kind}).json()["error"]
        assert error["message"].startswith(f"{name}: is empty"), error


def test_a_key_goes_in_and_never_comes_out(owner, project, tmp_path):
    secret = "s3cr3t-key-of-zorbi"
    answers = [
        rpc(owner, "gathering.put_key", site="gelbooru", user="12345", key=secret),
        rpc(owner, "gathering.key", site="gelbooru"),
        rpc(owner, "gathering.key", site="gelbooru", server="https://rule34.xxx"),
        rpc(owner, "gathering.sources", project=project.slug),
        rpc(owner, "gathering.put_key", site="gelbooru", user="", key=secret),
    ]
    assert [answers[index].json()["value"]["host"] for index in range(3)] == [
        "gelbooru.com",
        "gelbooru.com",
        "api.rule34.xxx",
    ]
    assert answers[1].json()["value"]["user"] == "12345" and answers[2].json()["value"]["user"] == ""
    assert not any(secret in answer.text for answer in answers)
    assert secret in (tmp_path / "settings" / "keys.json").read_text()
    assert rpc(owner, "gathering.forget_key", site="gelbooru").json()["value"]["user"] == ""
    assert secret not in (tmp_path / "settings" / "keys.json").read_text()


def test_an_import_does_not_wait_for_the_look_at_the_pictures(app, owner, project, picture_folder):
    gathering.gather(project, [picture_folder(2)])
    jobs = app.state.studio.jobs
    with FileLock(project.root / ".gpu.lock"):
        look = looking.start(project, jobs)
        source = {"kind": "paths", "paths": [str(picture_folder(2))]}
        rpc(owner, "gathering.start", project=project.slug, source=source)
        jobs.wait(look.folder, 60)
    assert ended(owner, project)["already"] == 2
    assert looking.last(project, jobs).created > look.created  # and it goes on behind the import
