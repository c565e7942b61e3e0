"""Boards: what is asked of each, and what is read from its answer."""

import json
import os
import stat

import pytest

from lora_studio.core.errors import UserError
from lora_studio.steps.sources import boorus, keys
from lora_studio.steps.sources.booru_apis import Gelbooru02
from lora_studio.steps.sources.candidate import Candidate, Refused, SourceGone
from lora_studio.steps.sources.config import SourceConfig
from tests.conftest import draw_picture
from tests.steps import boards
from tests.steps.boards import WORKS, Work
from tests.steps.web import Clock, Reply, client, serve

BOARDS = {
    "danbooru": boards.danbooru,
    "gelbooru": boards.gelbooru,
    "safebooru": boards.gelbooru02,
    "e621": boards.e621,
    "moebooru": boards.moebooru,
}


@pytest.fixture(autouse=True)
def own_keys(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_STUDIO_CONFIG", str(tmp_path / "settings"))


def find(web, site, tags="hatsune_miku", clock=None, **how):
    config = SourceConfig(kind="booru", site=site, server=web.url, tags=tags, **{"rating": "any", **how})
    with client(clock) as fetch:
        for one in boorus.candidates(config, fetch):
            yield (one, one.read() if isinstance(one, Candidate) else b"")


@pytest.mark.parametrize("site", BOARDS)
def test_each_board_gives_pictures_with_what_it_knows_of_them(site):
    with serve(BOARDS[site](WORKS)) as web:
        found = list(find(web, site))
    assert [one.name for one, _ in found] == [f"127.0.0.1 {number}.png" for number in (5, 4, 3, 2, 1)]
    one, data = found[0]
    assert data == draw_picture(5)
    assert (one.source, one.url, one.licence) == ("127.0.0.1", "https://www.pixiv.net/artworks/123", "")
    assert (one.origin["site"], one.origin["post"]) == ("127.0.0.1", "5")
    assert one.origin["page"].startswith(web.url) and one.origin["page"].endswith("5")
    assert one.origin["rating"] == "safe"
    assert json.loads(json.dumps(one.origin)) == one.origin
    if site == "safebooru":  # it does not tell the kinds of its tags
        assert "long_hair" in one.origin["tags"]["general"]
        return
    assert one.author == "some one"
    assert one.origin["tags"]["character"] == ["hatsune_miku"]
    assert one.origin["tags"]["copyright"] == ["vocaloid"]
    assert {"1girl", "can't_help", "long_hair"} <= set(one.origin["tags"]["general"])
    assert set(one.caption.split(", ")) - {"domestic cat", "highres"} == {
        *("hatsune miku", "1girl", "long hair", "^_^", "shirt (white)", "can't help")
    }
    assert one.caption.startswith("hatsune miku")


def test_a_server_of_gelbooru_02_that_tells_the_kinds_of_tags_is_listened_to():
    with serve(boards.gelbooru02(WORKS, info=True)) as web:
        url = web.url
        with client() as fetch:
            board = boorus.Board(url)
            post = Gelbooru02().posts(fetch, board, "hatsune_miku", "1")[0]
    assert post.tags["artist"] == ["some_one_(artist)"] and post.tags["character"] == ["hatsune_miku"]
    assert post.url == f"https://127.0.0.1:{web.port}/data/5.png"
    assert "can't_help" in post.tags["general"] and post.tags["meta"] == ["highres"]


def test_a_server_that_knows_no_json_is_understood():
    with serve(boards.gelbooru02(WORKS, xml=True)) as web:
        found = list(find(web, "safebooru"))
    assert len(found) == 5 and "long hair" in found[0][0].caption


def test_an_answer_with_entities_is_refused():
    bomb = b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><posts>&b;</posts>'
    with serve(lambda _: Reply(bomb)) as web, pytest.raises(SourceGone, match="not with posts"):
        list(find(web, "safebooru"))


@pytest.mark.parametrize("site", BOARDS)
@pytest.mark.parametrize(("limit", "count"), [(100, 12), (7, 7), (1, 1)])
def test_pages_are_turned_until_there_is_enough(site, limit, count):
    with serve(BOARDS[site]([Work(number) for number in range(1, 13)], most=5)) as web:
        found = [one.origin["post"] for one, _ in find(web, site, limit=limit)]
    assert found == [str(number) for number in range(12, 12 - count, -1)]


@pytest.mark.parametrize("site", ["danbooru", "e621"])
def test_pages_go_on_before_the_last_post_unless_the_search_has_its_own_order(site):
    with serve(BOARDS[site]([Work(number) for number in range(1, 8)], most=3)) as web:
        list(find(web, site))
        list(find(web, site, tags="hatsune_miku order:score"))
        pages = [request.query["page"] for request in web.log if request.path == "/posts.json"]
    assert pages == ["1", "b5", "b2", "b1", "1", "2", "3", "4"]


@pytest.mark.parametrize("site", BOARDS)
@pytest.mark.parametrize("rating", ["safe", "questionable", "explicit"])
def test_only_the_rating_that_is_wanted_comes(site, rating):
    ratings = ("general", "questionable", "explicit", "sensitive")
    works = [Work(number, rating=ratings[number % 4]) for number in range(1, 9)]
    with serve(BOARDS[site](works)) as web:
        found = [one.origin["rating"] for one, _ in find(web, site, rating=rating)]
        assert any("rating:" in request.query.get("tags", "") for request in web.log)
    assert set(found) == {rating}
    assert len(found) == (4 if rating == "safe" and site in ("e621", "moebooru") else 2)


def test_a_server_that_does_not_know_the_rating_cannot_slip_others_in():
    works = [Work(1), Work(2, rating="explicit")]

    def deaf(request):
        query = {**request.query, "tags": "hatsune_miku"} if "tags" in request.query else request.query
        return boards.danbooru(works)(type(request)(request.path, query, request.headers))

    with serve(deaf) as web:
        assert [one.origin["post"] for one, _ in find(web, "danbooru", rating="safe")] == ["1"]


@pytest.mark.parametrize("site", BOARDS)
def test_videos_and_what_is_hidden_are_named_and_do_not_count(site):
    works = [Work(1), Work(2, ending="webm"), Work(3, ending="zip"), Work(4, ending="swf"), Work(5), Work(6)]
    works += [Work(7, hidden=True)] if site in ("danbooru", "e621") else []
    with serve(BOARDS[site](works)) as web:
        found = [one for one, _ in find(web, site, limit=3)]
    refused = {one.file: one.reason for one in found if isinstance(one, Refused)}
    assert {name.rpartition(".")[2] for name in refused if name.count(".") > 3} == {"webm", "zip", "swf"}
    assert all("video" in reason or "members only" in reason for reason in refused.values())
    assert len(refused) == (4 if site in ("danbooru", "e621") else 3)
    assert len([one for one in found if isinstance(one, Candidate)]) == 3


@pytest.mark.parametrize("site", BOARDS)
def test_tags_that_nobody_uses_are_named(site):
    with serve(BOARDS[site](WORKS)) as web, pytest.raises(SourceGone, match=r"has no safe pictures with no_such_tag"):
        list(find(web, site, tags="no_such_tag", rating="safe"))


def test_tags_may_be_written_as_captions_are():
    assert boorus.search_words(" long hair,  solo ,hat ") == "long_hair solo hat"
    assert boorus.search_words("long_hair  -hat rating:g") == "long_hair -hat rating:g"


def test_artists_that_name_nobody_are_left_out():
    assert boorus.author({"artist": ["conditional_dnp", "a_b_(artist)", "unknown_artist", "c"]}) == "a b, c"
    assert boorus.author({}) == ""


def test_a_source_that_is_no_address_gives_way_to_the_post():
    with serve(boards.danbooru([Work(3, source="scan from my shelf")])) as web:
        one, _ = next(find(web, "danbooru"))
    assert one.url == f"{web.url}/posts/3"


def test_the_words_of_a_board_that_refuses_are_passed_on():
    with serve(boards.danbooru(WORKS)) as web, pytest.raises(SourceGone, match="more than 2 tags") as caught:
        list(find(web, "danbooru", tags="1girl long_hair hatsune_miku"))
    assert caught.value.remedy


@pytest.mark.parametrize("site", BOARDS)
@pytest.mark.parametrize(
    ("body", "status"),
    [(b"<!DOCTYPE html><html>", 200), (b'"Missing authentication"', 200), (b"[[[", 200), (b"null", 200), (b"", 503)],
)
def test_a_server_that_is_no_such_board_is_an_error_in_words(site, body, status):
    with serve(lambda _: Reply(body, status)) as web, pytest.raises(SourceGone) as caught:
        list(find(web, site))
    assert caught.value.remedy


@pytest.mark.parametrize("site", BOARDS)
@pytest.mark.parametrize("post", [{}, {"id": "x"}, {"id": 4}, {"id": 4, "tags": None, "file": None, "rating": 7}])
def test_posts_that_lack_what_they_should_have_crash_nothing(site, post):
    def answer(request):
        bare = site in ("danbooru", "safebooru", "moebooru")
        name = "post" if site == "gelbooru" else "posts"
        listed = [post] if request.query.get("pid", request.query.get("page")) in ("0", "1") else []
        return Reply(json.dumps(listed if bare else {"@attributes": {}, name: listed, "tag": []}).encode())

    with serve(answer) as web, pytest.raises(SourceGone):
        list(find(web, site))


def test_the_searches_keep_the_pace_that_boards_ask_for():
    clock = Clock()
    with serve(boards.danbooru([Work(number) for number in range(1, 13)], most=5)) as web:
        config = SourceConfig(kind="booru", site="danbooru", server=web.url, tags="hatsune_miku", rating="any")
        with client(clock) as fetch:
            before = clock.time
            assert len(list(boorus.candidates(config, fetch))) == 12
    assert clock.time - before >= 3 * boorus.GAP


# --- Keys -------------------------------------------------------------------------------------------------------------


def test_a_key_opens_what_is_closed_and_stays_out_of_everything(caplog):
    caplog.set_level("DEBUG")
    with serve(boards.gelbooru(WORKS, "4711", "hush-hush")) as web:
        with pytest.raises(SourceGone, match="wants a user and an API key") as caught:
            list(find(web, "gelbooru"))
        assert "127.0.0.1" in caught.value.remedy
        keys.put("127.0.0.1", "4711", "hush-hush")
        found = list(find(web, "gelbooru"))
        assert len(found) == 5
        keys.put("127.0.0.1", "4711", "wrong-key")
        with pytest.raises(SourceGone, match="does not accept your key") as caught:
            list(find(web, "gelbooru"))
    told = f"{caught.value}{found}{caplog.text}{[one.origin for one, _ in found]}"
    assert "hush-hush" not in told and "wrong-key" not in told


@pytest.mark.parametrize("site", ["danbooru", "e621"])
def test_a_login_goes_beside_the_address_and_the_name_into_the_agent(site):
    keys.put("127.0.0.1", "me", "hush-hush")
    with serve(BOARDS[site](WORKS)) as web:
        list(find(web, site))
        search = next(request for request in web.log if request.path == "/posts.json")
    assert search.headers["authorization"] == "Basic bWU6aHVzaC1odXNo"
    assert "hush-hush" not in str(search.query)
    assert search.headers["user-agent"].endswith("(by me on 127.0.0.1)")


def test_a_key_is_sent_to_its_own_host_only():
    keys.put("danbooru.donmai.us", "me", "hush-hush")
    with serve(boards.danbooru(WORKS)) as web:
        list(find(web, "danbooru"))
        assert not any("authorization" in request.headers for request in web.log)


def test_a_board_that_repeats_the_key_is_silenced():
    keys.put("127.0.0.1", "me", "hush-hush")
    words = json.dumps({"success": False, "message": "bad key hush-hush"}).encode()
    for status in (200, 422):
        with serve(lambda _, status=status: Reply(words, status)) as web, pytest.raises(SourceGone) as caught:
            list(find(web, "danbooru"))
        assert "bad key" in str(caught.value) and "hush-hush" not in str(caught.value)


@pytest.mark.skipif(os.name == "nt", reason="Windows has other rights")
def test_keys_lie_in_a_file_that_only_their_owner_reads():
    keys.put("Gelbooru.com ", " 12", "hush-hush ")
    assert stat.S_IMODE(keys.path().stat().st_mode) == 0o600
    assert keys.get("gelbooru.com") == keys.Key("12", "hush-hush")
    assert "hush-hush" not in repr(keys.get("gelbooru.com"))
    assert keys.hosts() == {"gelbooru.com": "12"}
    keys.forget("gelbooru.com")
    assert keys.hosts() == {} and "hush" not in keys.path().read_text()


@pytest.mark.parametrize(
    ("host", "user", "key"), [("", "a", "b"), ("x/y", "a", "b"), ("x.com", "", "b"), ("x.com", "a", "\n")]
)
def test_half_a_key_is_refused(host, user, key):
    with pytest.raises(UserError):
        keys.put(host, user, key)


def test_a_broken_file_of_keys_is_named():
    keys.put("x.com", "a", "b")
    keys.path().write_text("{")
    with pytest.raises(UserError, match=r"keys\.json"):
        keys.get("x.com")
