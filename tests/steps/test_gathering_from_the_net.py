"""From a board or a list of addresses into a project, through the import itself."""

import json

import pytest

from lora_studio.core.project import Plan, Project
from lora_studio.steps import importing
from lora_studio.steps.sources import boorus, urls
from lora_studio.steps.sources.config import SourceConfig
from tests.steps import boards
from tests.steps.boards import Work
from tests.steps.web import Reply, client, serve


@pytest.fixture
def project(projects, tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_STUDIO_CONFIG", str(tmp_path / "settings"))
    return Project.create(projects, Plan(name="From the net"))


def take(project, source, config, stop=lambda: False):
    with client(should_stop=stop, gap=0.0) as fetch:
        found = source.candidates(config, fetch)
        return importing.take_all(project, found, lambda: 0, lambda *_: None, stop, lambda line: None)


def test_what_a_board_knows_stays_with_its_pictures_and_nothing_is_fetched_twice(project):
    works = [Work(1), Work(2, ending="webm"), Work(3), Work(4)]
    with serve(boards.danbooru(works)) as web:
        config = SourceConfig(kind="booru", site="danbooru", server=web.url, tags="hatsune_miku", limit=2)
        first = take(project, boorus, config)
        assert (first.added, first.already, first.captions) == (2, 0, 2)
        again = take(project, boorus, config.with_changes({"limit": 10}))
        assert (again.added, again.already) == (1, 2)
        assert [one.file for one in again.refused] == ["127.0.0.1 2.webm"]
        fetched = [request.path for request in web.log if request.path.startswith("/data/")]
    assert sorted(fetched) == ["/data/1.png", "/data/3.png", "/data/4.png"]
    one = project.images()[0]
    assert (one.author, one.url, one.source) == ("some one", "https://www.pixiv.net/artworks/123", "127.0.0.1")
    assert json.loads(one.origin)["tags"]["copyright"] == ["vocaloid"]
    assert one.caption.startswith("hatsune miku, 1girl, long hair")


def test_a_list_of_addresses_goes_on_where_it_was_and_names_what_is_wrong(project):
    works = boards.danbooru([])
    pages = Reply(b"<html>", headers={"Content-Type": "text/html"})
    with serve(lambda request: pages if "page" in request.path else works(request)) as web:
        lines = (f"{web.url}/data/1.png", f"{web.url}/page", "file:///etc/passwd", f"{web.url}/data/2.png")
        first = take(project, urls, SourceConfig(kind="urls", urls=lines[:3]))
        assert (first.added, sorted(one.file for one in first.refused)) == (1, ["file:///etc/passwd", "page"])
        again = take(project, urls, SourceConfig(kind="urls", urls=lines))
        assert (again.added, again.already, len(again.refused)) == (1, 1, 2)
        assert [request.path for request in web.log].count("/data/1.png") == 1
    assert [image.url for image in project.images()] == [lines[0], lines[3]]


def test_a_board_that_breaks_down_on_the_way_keeps_what_was_taken(project):
    board = boards.danbooru([Work(number) for number in range(1, 10)], most=3)

    def answer(request):
        return Reply(b"", 503) if request.query.get("page") == "b4" else board(request)

    with serve(answer) as web:
        config = SourceConfig(kind="booru", site="danbooru", server=web.url, tags="hatsune_miku")
        with pytest.raises(boorus.SourceGone, match="503"):
            take(project, boorus, config)
    assert len(project.images()) == 6


def test_a_stop_ends_a_search_and_keeps_what_was_taken(project):
    board = boards.danbooru([Work(number) for number in range(1, 10)], most=3)
    with serve(board) as web:
        config = SourceConfig(kind="booru", site="danbooru", server=web.url, tags="hatsune_miku")
        result = take(project, boorus, config, lambda: any(r.query.get("page") == "b4" for r in web.log))
    assert result.stopped and not result.refused
    assert len(project.images()) == result.added
