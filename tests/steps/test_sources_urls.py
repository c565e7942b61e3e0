"""Lists of addresses."""

import pytest

from lora_studio.core.errors import UserError
from lora_studio.steps.sources import urls
from lora_studio.steps.sources.candidate import Candidate, Refused
from lora_studio.steps.sources.config import SourceConfig
from tests.conftest import draw_picture
from tests.steps.web import Reply, client, serve


def site(request):
    if request.path.endswith(".html"):
        return Reply(b"<!doctype html><html>", headers={"Content-Type": "text/html"})
    if request.path.endswith(".png"):
        return Reply(draw_picture(int(request.path[1:-4])), headers={"Content-Type": "image/png"})
    return Reply(status=404)


def test_one_address_a_line_each_once_comments_left_out():
    lines = ("# my list", "", "{0}/1.png  # the best", "{0}/2.png#part\n{0}/1.png", "  {0}/3.png?size=#x ")
    with serve(site) as web, client() as fetch:
        config = SourceConfig(kind="urls", urls=tuple(line.format(web.url) for line in lines))
        found = list(urls.candidates(config, fetch))
        assert web.log == []  # nothing is fetched before it is read
        assert [one.url.removeprefix(web.url) for one in found] == ["/1.png", "/2.png", "/3.png?size="]
        assert [one.name for one in found] == ["1.png", "2.png", "3.png"]
        assert [one.read() for one in found] == [draw_picture(number) for number in (1, 2, 3)]
        assert found[0].source == web.url and found[0].origin is None


def test_what_is_no_picture_is_named_with_its_reason():
    with serve(site) as web, client() as fetch:
        lines = ("picture.png", "file:///etc/passwd", "https://me:secret@example.com/a.png", f"{web.url}/gone")
        config = SourceConfig(kind="urls", urls=(*lines, f"{web.url}/view.html"))
        found = list(urls.candidates(config, fetch))
        assert [one.file for one in found if isinstance(one, Refused)] == [
            *("picture.png", "file:///etc/passwd", "https://example.com/a.png")
        ]
        assert "secret" not in str(found)
        reasons = []
        for one in found[3:]:
            assert isinstance(one, Candidate)
            with pytest.raises(UserError) as caught:
                one.read()
            reasons.append(str(caught.value))
        assert "nothing at" in reasons[0] and "a web page, not a picture" in reasons[1]


def test_pictures_that_a_script_gives_get_names_of_their_own():
    lines = (
        "https://example.com/a/view.php?id=1",
        "https://example.com/a/view.php?id=2",
        "https://example.com/b/view.php",
    )
    with client() as fetch:
        found = [(one.name, one.source) for one in urls.candidates(SourceConfig(kind="urls", urls=lines), fetch)]
    assert found == [
        ("view.php", "https://example.com/a"),
        ("view.php (2)", "https://example.com/a"),
        ("view.php", "https://example.com/b"),
    ]


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("https://example.com/a/%C3%BC%20b.png?x=1", "ü b.png"),
        ("https://example.com/", "example.com"),
        ("https://example.com/..%2f..%2fetc%2fpasswd", "passwd"),
        ("https://example.com/a%00%0Ab%3Cc%3E.png", "abc.png"),
        ("https://example.com/" + "x" * 500 + ".png", "x" * 116 + ".png"),
    ],
)
def test_a_picture_is_named_after_its_address(address, name):
    assert urls.name_of(urls.parse(address)) == name
