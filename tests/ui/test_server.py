"""The server's guards, media by id, uploads: what another site, a wrong path or a large body gets."""

import io
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from lora_studio.core import images
from lora_studio.core.project import Plan, Project
from lora_studio.steps import crops, gathering, masks, training
from lora_studio.ui.server import free_port, make_app


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One projects folder for this file: building the page takes longer than all of the tests."""
    return tmp_path_factory.mktemp("Prøjekte ü")


@pytest.fixture(scope="module")
def client(projects: Path) -> Iterator[TestClient]:
    with TestClient(make_app(projects), base_url="http://127.0.0.1") as client:
        yield client


@pytest.fixture
def project(projects: Path, picture_folder) -> Project:
    opened = Project.create(projects, Plan(name="Zorbi <b>", trigger="zorbi"))
    gathering.gather(opened, [picture_folder(2)])
    return opened


def rpc(client: TestClient, name: str, headers: dict | None = None, **arguments):
    config = client.get("/config").json()
    component = next(c["id"] for c in config["components"] if c["props"].get("elem_id") == "ls-sidebar")
    body = {
        "component_id": component,
        "fn_name": "call",
        "session_hash": "test",
        "data": {"name": name, "arguments": arguments},
    }
    return client.post("/gradio_api/component_server", json=body, headers=headers or {})


def test_the_page_answers_with_the_security_headers(client):
    answer = client.get("/")
    assert answer.status_code == 200
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["referrer-policy"] == "no-referrer"


def test_a_second_start_finds_the_studio(client, projects):
    about = client.get("/api/about").json()
    assert about["name"] == "lora-studio" and about["projects"] == str(projects.resolve())


@pytest.mark.parametrize("path", ["/openapi.json", "/docs", "/monitoring", "/gradio_api/monitoring/summary"])
def test_what_is_not_used_is_closed(client, path):
    answer = client.get(path)
    assert answer.status_code in (403, 404)


@pytest.mark.parametrize("host", ["evil.com", "evil.com:7860", "127.0.0.1.evil.com", "169.254.169.254"])
def test_a_rebound_name_is_refused(client, host):
    assert client.get("/config", headers={"Host": host}).status_code == 400


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.test"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:9999"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_a_foreign_page_cannot_write(client, project, headers):
    for path in (
        "/gradio_api/component_server",
        "/gradio_api/queue/join",
        "/gradio_api/upload",
        "/upload/abc?name=a&offset=0",
    ):
        answer = client.post(path, content=b"{}", headers={"Content-Type": "text/plain", **headers})
        assert answer.status_code == 403, path
    answer = rpc(client, "project.trash", headers, project=project.slug)
    assert answer.status_code == 403
    assert project.folder.is_dir()


def test_the_own_page_can_call(client, project):
    answer = rpc(
        client, "overview", {"Origin": "http://127.0.0.1", "Sec-Fetch-Site": "same-origin"}, project=project.slug
    )
    assert answer.status_code == 200
    value = answer.json()["value"]
    assert project.slug in [found["slug"] for found in value["projects"]]
    assert value["project"]["steps"][0]["id"] == "conception"


def test_a_large_body_is_refused(client):
    answer = client.post("/upload/abc?name=a&offset=0", content=b"x" * (33 * 2**20))
    assert answer.status_code == 413


def test_thumbnails_come_by_id_and_are_cached(client, project):
    image = project.images()[0]
    answer = client.get(f"/media/{project.slug}/{image.id}/thumb?v=1")
    assert answer.status_code == 200 and answer.headers["content-type"] == "image/webp"
    assert "immutable" in answer.headers["cache-control"]
    assert client.get(f"/media/{project.slug}/{image.id}/full?v=1").status_code == 200


def test_the_pixels_that_are_trained_and_the_mask_are_served_as_png(client, project):
    image = project.images()[0]
    address = f"/media/{project.slug}/{image.id}"
    shown = client.get(f"{address}/trained?n=0&v=1")
    assert shown.headers["content-type"] == "image/png" and "immutable" in shown.headers["cache-control"]
    with Image.open(io.BytesIO(shown.content)) as pixels:
        expected = crops.trained_pixels(project, training.current(project), image.id)
        assert pixels.tobytes() == expected.tobytes()
    with Image.open(io.BytesIO(client.get(f"{address}/trained?box=0,0,0.5,1").content)) as pixels:
        config = training.current(project)
        assert pixels.tobytes() == crops.trained_part(project, config, image, (0, 0, 0.5, 1)).tobytes()
    for nowhere in ("0,0,2,1", "0.5,0,0.5,1", "nan,0,1,1", "1,2", "x"):
        assert client.get(f"{address}/trained?box={nowhere}").status_code == 404
    assert client.get(f"{address}/trained?n=5").status_code == 404
    assert client.get(f"{address}/trained?resolution=7").status_code == 404
    assert client.get(f"{address}/mask").status_code == 404
    grey = Image.new("L", (image.width, image.height))
    grey.putpixel((3, 3), 255)
    masks.save(project, image.id, images.png(grey))
    with Image.open(io.BytesIO(client.get(f"{address}/mask?v=1").content)) as mask:
        assert mask.tobytes() == grey.tobytes()


@pytest.mark.parametrize(
    "path",
    [
        "/media/{p}/999/thumb",
        "/media/{p}/999/trained",
        "/media/{p}/999/mask",
        "/media/nothing/1/thumb",
        "/media/..%2f..%2fetc/1/thumb",
        "/media/{p}/runs/..%2f..%2f..%2fsecret/samples/s.png",
        "/media/{p}/runs/r-1/samples/..%2f..%2f..%2f..%2fsecret.png",
        "/media/{p}/runs/r-1/samples/..%5c..%5csecret.png",
        "/media/{p}/runs/r-1/samples/project.toml",
        "/media/{p}/tests/..%2f../project.db",
        "/media/{p}/tests/..%2f../secret.png",
        "/media/{p}/exports/..%2f..%2fsecret.safetensors",
        "/media/samples/..%2f..%2f..%2fpyproject/x.png",
        "/media/samples/character/..%2fplan.toml",
    ],
)
def test_nothing_outside_is_served(client, project, projects, path):
    (projects / "secret.png").write_bytes(b"secret")
    (projects / "secret.safetensors").write_bytes(b"secret")
    (project.folder / "runs/r-1/samples").mkdir(parents=True)
    answer = client.get(path.replace("{p}", project.slug))
    assert answer.status_code == 404
    assert b"secret" not in answer.content or b"There is no" in answer.content


def test_a_link_out_of_a_run_is_not_followed(client, project, projects):
    (projects / "secret.png").write_bytes(b"secret")
    samples = project.folder / "runs/r-1/samples"
    samples.mkdir(parents=True)
    (samples / "s.png").symlink_to(projects / "secret.png")
    assert client.get(f"/media/{project.slug}/runs/r-1/samples/s.png").status_code == 404


def test_gradio_serves_no_project_file(client, project):
    path = project.original_path(project.images()[0])
    assert client.get(f"/gradio_api/file={path}").status_code in (403, 404)


def test_a_file_dropped_in_chunks_is_imported(client, project, picture_folder):
    data = (picture_folder(1, "more", first=50) / "picture 050.png").read_bytes()
    batch = rpc(client, "gathering.begin", project=project.slug).json()["value"]
    for offset in range(0, len(data), 1000):
        answer = client.post(f"/upload/{batch}?name=new%2Fa.png&offset={offset}", content=data[offset : offset + 1000])
        assert answer.status_code == 200
    rpc(client, "gathering.uploaded", project=project.slug, batch=batch)
    for _ in range(300):
        info = rpc(client, "gathering.info", project=project.slug).json()["value"]
        if info["job"]["state"] == "done":
            break
        time.sleep(0.2)
    assert info["job"]["added"] == 1
    assert len(project.images()) == 3
    assert rpc(client, "gathering.uploaded", project=project.slug, batch=batch).json()[
        "error"
    ]  # swept after the import


@pytest.mark.parametrize("name", ["../../x.png", "/../x.png", "a/../../../x.png", "", "x" * 300])
def test_an_upload_stays_in_its_batch(client, project, projects, name):
    batch = rpc(client, "gathering.begin", project=project.slug).json()["value"]
    answer = client.post(f"/upload/{batch}", params={"name": name, "offset": 0}, content=b"data")
    assert answer.status_code == 400
    assert [path.name for path in (projects / ".tmp" / "uploads" / batch).rglob("*") if path.is_file()] == []
    assert not (projects / ".tmp" / "x.png").exists() and not (projects / "x.png").exists()


def test_an_upload_without_a_batch_is_refused(client):
    assert client.post("/upload/..?name=a&offset=0", content=b"x").status_code in (400, 404, 405)
    assert client.post("/upload/abcdef?name=a&offset=0", content=b"x").status_code == 400


def test_uploads_that_nobody_came_back_for_are_swept(client, projects):
    studio = client.app.state.studio
    batch = studio.uploads.begin()
    studio.uploads.sweep(older_than=-1)
    assert not (projects / ".tmp" / "uploads" / batch).exists()


def test_a_port_in_use_is_passed_over():
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert free_port("127.0.0.1", taken.getsockname()[1]) != taken.getsockname()[1]


def test_unknown_ids_are_sentences(client, project):
    for name, arguments in {
        "overview": {"project": "nothing"},
        "training.view": {"project": project.slug, "run": "../.."},
        "testing.view": {"project": project.slug, "test": "test-9"},
        "testing.export": {"project": project.slug, "checkpoint": "../../etc/passwd", "format": "kohya"},
        "curation.decide": {"project": project.slug, "ids": [999], "decision": "keep"},
        "curation.crop": {"project": project.slug, "id": 1, "box": [0, 0, 2, 1]},
        "tagging.caption": {"project": project.slug, "id": 999, "text": "a"},
        "gathering.start": {"project": project.slug, "source": {"kind": "paths", "paths": ["pictures"]}},
        "job.command": {"project": project.slug, "group": "jobs", "job": "../x", "word": "stop"},
    }.items():
        error = rpc(client, name, **arguments).json().get("error")
        assert error and error["message"] and "fault" not in error["remedy"], name
