"""Data sets of the Hugging Face hub, from a server that answers as the hub does."""

import io
import json
import random
import sys

import pytest

from lora_studio.steps.sources import hub
from lora_studio.steps.sources.candidate import Candidate, Refused, SourceGone
from lora_studio.steps.sources.config import SourceConfig
from tests.conftest import draw_picture
from tests.steps.web import Reply, client, serve

SHA = "0123456789abcdef0123456789abcdef01234567"


def the_hub(files, card=None, name="some-one/pictures", cdn=None):
    """The hub with one data set: its list of files, and the files; large ones from another host, in parts."""

    def answer(request):
        if request.path.startswith("/api/datasets/"):
            repo, _, revision = request.path.removeprefix("/api/datasets/").partition("/revision/")
            if repo != name:
                return Reply(b'{"error":"Repository not found"}', 401, {"X-Error-Code": "RepoNotFound"})
            if revision not in ("main", "v1.0", SHA):
                return Reply(b'{"error":"Invalid rev id"}', 404, {"X-Error-Code": "RevisionNotFound"})
            siblings = [{"rfilename": path, "size": len(data), "blobId": "0"} for path, data in files.items()]
            told = {"id": name, "sha": SHA, "siblings": siblings, "private": False, "gated": False}
            return Reply(json.dumps({**told, "cardData": card}).encode(), headers={"Content-Type": "application/json"})
        path = request.path.removeprefix(f"/datasets/{name}/resolve/{SHA}/").replace("%20", " ")
        if path not in files:
            return Reply(status=404, headers={"X-Error-Code": "EntryNotFound"})
        if cdn and path.endswith(".parquet"):
            return Reply(status=302, headers={"Location": f"{cdn}/{path}"})
        return part(files[path], request)

    return answer


def part(data, request):
    wanted = request.headers.get("range")
    if not wanted:
        return Reply(data)
    first, _, last = wanted.removeprefix("bytes=").partition("-")
    some = data[int(first) : int(last) + 1]
    return Reply(some, 206, {"Content-Range": f"bytes {first}-{last}/{len(data)}"})


@pytest.fixture(autouse=True)
def online(monkeypatch, tmp_path):
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_hush")  # whoever runs the tests may be logged in


def find(web, monkeypatch, dataset="some-one/pictures", **how):
    monkeypatch.setenv("HF_ENDPOINT", web.url)
    with client() as fetch:
        for one in hub.candidates(SourceConfig(kind="hub", dataset=dataset, **how), fetch):
            yield (one, one.read() if isinstance(one, Candidate) else b"")


def folder():
    lines = [{"file_name": "1.png", "text": "a red thing"}, {"file_name": "sub/2.png", "caption": ["a", "b"]}, 3]
    return {
        "README.md": b"# words",
        "train/1.png": draw_picture(1),
        "train/sub/2.png": draw_picture(2),
        "train/metadata.jsonl": "\n".join([*map(json.dumps, lines), '{"file_na']).encode(),
        "more/3 ü.jpg": draw_picture(3, form="JPEG"),
        "more/metadata.csv": "file_name,prompt\n3 ü.jpg,a blue thing\n".encode("utf-8-sig"),
        "4.png": draw_picture(4),
        "4.txt": b"beside it",
        "model.safetensors": b"x",
    }


def test_picture_files_come_with_their_captions(monkeypatch):
    files = {path.replace("ü", "u"): data for path, data in folder().items()}
    files["more/metadata.csv"] = b"file_name,prompt\n3 u.jpg,a blue thing\n"
    with serve(the_hub(files, {"license": ["cc0-1.0", "mit"]})) as web:
        found = list(find(web, monkeypatch))
        asked = [request.path.rpartition("/")[2] for request in web.log]
    assert [(one.name, one.caption) for one, _ in found] == [
        ("4.png", "beside it"),
        ("3 u.jpg", "a blue thing"),
        ("1.png", "a red thing"),
        ("2.png", "a, b"),
    ]
    assert [data for _, data in found] == [files[one.origin["post"].split(" ", 1)[1]] for one, _ in found]
    one = found[2][0]
    assert (one.author, one.licence, one.source) == ("some-one", "cc0-1.0, mit", "some-one/pictures on 127.0.0.1")
    assert one.url == f"{web.url}/datasets/some-one/pictures/resolve/{SHA}/train/1.png"
    assert "README.md" not in asked and "model.safetensors" not in asked


def test_only_what_is_wanted_is_fetched(monkeypatch):
    with serve(the_hub({f"{number:03d}.png": draw_picture(1) for number in range(50)})) as web:
        assert len(list(find(web, monkeypatch, limit=3))) == 3
        assert len(web.log) == 4


def test_a_revision_and_a_pasted_address_are_understood(monkeypatch):
    with serve(the_hub({"1.png": draw_picture(1)})) as web:
        assert len(list(find(web, monkeypatch, "some-one/pictures@v1.0"))) == 1
        assert web.log[0].path.endswith("/revision/v1.0")
        assert len(list(find(web, monkeypatch, f"{web.url}/datasets/some-one/pictures/"))) == 1


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        ("some-one/nothing", "no data set some-one/nothing"),
        ("some-one/pictures@v9", "no revision v9"),
        ("pictures", "no name of a data set"),
        ("../../etc", "no name of a data set"),
    ],
)
def test_what_is_not_there_is_named(monkeypatch, dataset, words):
    with serve(the_hub({})) as web, pytest.raises(SourceGone, match=words) as caught:
        list(find(web, monkeypatch, dataset))
    assert caught.value.remedy and "hf_hush" not in str(caught.value)


def test_terms_that_have_to_be_accepted_are_named(monkeypatch):
    gated = Reply(b"", 403, {"X-Error-Code": "GatedRepo"})
    with serve(lambda _: gated) as web, pytest.raises(SourceGone, match="accept their terms") as caught:
        list(find(web, monkeypatch))
    assert "/datasets/some-one/pictures" in caught.value.remedy


@pytest.mark.parametrize(
    ("files", "words"),
    [({"data.tar.gz": b"x"}, r"archives such as data\.tar\.gz"), ({"a.md": b""}, "holds no pictures")],
)
def test_a_data_set_in_another_form_is_told(monkeypatch, files, words):
    with serve(the_hub(files)) as web, pytest.raises(SourceGone, match=words):
        list(find(web, monkeypatch))


def test_the_hub_is_left_alone_when_it_should_be(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with serve(the_hub({})) as web:
        with pytest.raises(SourceGone, match="HF_HUB_OFFLINE"):
            list(find(web, monkeypatch))
        assert web.log == []


def test_the_login_goes_to_the_hub_only(monkeypatch):
    def answer(request):
        return Reply(status=302, headers={"Location": other.url}) if "resolve" in request.path else files(request)

    files = the_hub({"1.png": b""})
    with serve(lambda _: Reply(draw_picture(1))) as other, serve(answer) as web:
        assert [data for _, data in find(web, monkeypatch)] == [draw_picture(1)]
        assert all(request.headers["authorization"] == "Bearer hf_hush" for request in web.log)
        assert "authorization" not in other.log[0].headers


def test_without_the_reader_of_parquet_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with (
        serve(the_hub({"data/train-0.parquet": b"x"})) as web,
        pytest.raises(SourceGone, match="parquet files") as caught,
    ):
        list(find(web, monkeypatch))
    assert "lora-studio[parquet]" in caught.value.remedy


def table(rows, groups=4):
    import pyarrow
    from pyarrow import parquet

    file = io.BytesIO()
    parquet.write_table(
        pyarrow.Table.from_pylist(rows),
        file,
        row_group_size=groups,
        use_dictionary=False,
        data_page_size=20_000,
        write_batch_size=8,
    )
    return file.getvalue()


def test_parquet_files_are_read_row_by_row(monkeypatch):
    rows = [{"image": {"bytes": draw_picture(n), "path": f"p/{n}.png"}, "text": f"thing {n}"} for n in range(1, 6)]
    rows[1]["image"] = None
    rows[2]["image"]["path"] = None
    rows[3]["text"] = None
    files = {
        "data/train-0.parquet": table(rows),
        "data/train-1.parquet": table([{"number": 1}]),
        "z.parquet": b"PAR1 no",
    }
    with serve(lambda request: part(files[request.path[1:]], request)) as cdn:
        with serve(the_hub(files, {"license": "mit"}, cdn=cdn.url)) as web:
            found = list(find(web, monkeypatch))
        assert all("range" in request.headers and "authorization" not in request.headers for request in cdn.log)
    taken = [(one.name, one.caption, data == draw_picture(int(one.origin["post"][-1]))) for one, data in found if data]
    assert taken == [
        ("1.png", "thing 1", True),
        ("train-0 3.png", "thing 3", True),
        ("4.png", "", True),
        ("5.png", "thing 5", True),
    ]
    assert {one.file: one.reason[:15] for one, data in found if isinstance(one, Refused)} == {
        "data/train-0.parquet 2": "this row holds ",
        "data/train-1.parquet": "it has no colum",
        "z.parquet": "damaged or no p",
    }
    assert found[0][0].url == f"{web.url}/datasets/some-one/pictures"


@pytest.mark.parametrize("groups", [4, 60])
def test_of_a_parquet_file_only_the_parts_that_are_needed_are_fetched(monkeypatch, groups):
    monkeypatch.setattr(hub, "PART", 4096)
    dice = random.Random(1)
    rows = [{"jpg": dice.randbytes(20_000), "caption": "x", "unused": dice.randbytes(20_000)} for _ in range(60)]
    files = {"train.parquet": table(rows, groups)}
    sent = []

    def answer(request):
        reply = files_of(request)
        sent.append(len(reply.body) if reply.status == 206 else 0)
        return reply

    files_of = the_hub(files)
    with serve(answer) as web:
        assert len(list(find(web, monkeypatch, limit=5))) == 5
    assert 0 < sum(sent) < len(files["train.parquet"]) / 3
