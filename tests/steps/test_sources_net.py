"""The one client that everything from the network goes through."""

import gzip
import logging
import socket
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate

import pytest

from lora_studio.core.errors import UserError
from lora_studio.steps.sources import net
from lora_studio.steps.sources.addresses import is_public, parse, show
from lora_studio.steps.sources.net import Client, Limits, StatusError, Stopped
from tests.conftest import draw_picture
from tests.steps.web import Clock, Reply, client, serve

PICTURE = draw_picture(1)


def picture(_):
    return Reply(PICTURE, headers={"Content-Type": "image/png"})


NEARBY = """
127.0.0.1 127.8.9.1 0.0.0.0 10.1.2.3 172.16.0.1 192.168.1.1 100.64.0.1 169.254.169.254 100.100.100.200 192.0.0.192
198.18.0.1 192.88.99.1 224.0.0.1 240.0.0.1 255.255.255.255 168.63.129.16 :: ::1 ::127.0.0.1 ::ffff:127.0.0.1
::ffff:8.8.8.8 fe80::1 fe80::1%eth0 fc00::1 fd00:ec2::254 fec0::1 ff02::1 2002:7f00:1:: 2001:0:4136::1 64:ff9b:1::1
64:ff9b::10.0.0.1 2001:db8::1 example.com 127.1 2130706433
"""


@pytest.mark.parametrize("address", ["", *NEARBY.split()])
def test_an_address_of_this_machine_its_network_or_its_cloud_is_not_public(address):
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "151.101.1.6", "2606:4700::1111", "64:ff9b::8.8.8.8"])
def test_an_address_of_the_internet_is_public(address):
    assert is_public(address)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "file:///etc/passwd",
            "ftp://example.com/a.png",
            "javascript:alert(1)",
            "data:image/png;base64,AAAA",
            "a.png",
        ),
        *("//example.com/a.png", "http://", "http:///a.png", "https://name:secret@example.com/a.png", "http://a@b/c"),
        *("http://2130706433/", "http://0177.0.0.1/", "http://0x7f.1/", "http://0x7f000001/", "http://127.1/", ""),
        *(
            "http://127.0.0.1.0x/",
            "http://1.2.3.4.5/",
            "http://exa mple/",
            "http://example.com\\@127.0.0.1/",
            "http://a..b/",
        ),
        *("http://example.com:0/", "http://example.com:99999/", "http://ex\x00ample/", "http://①②⑦.0.0.1/"),
    ],
)
def test_what_is_no_plain_web_address_is_refused(text):
    with pytest.raises(UserError) as caught:
        parse(text)
    assert caught.value.remedy
    assert "secret" not in str(caught.value)


def test_an_address_is_read_as_a_browser_would():
    assert str(parse(" HTTPS://Bücher.Example:443/ü b.png?x=1#part ")) == (
        "https://xn--bcher-kva.example/%C3%BC%20b.png?x=1"
    )
    assert show("https://me:pw@example.com/a.png?api_key=1#x") == "https://example.com/a.png"


def test_a_picture_comes_as_it_is():
    with serve(picture) as web, client() as fetch:
        assert fetch.picture(f"{web.url}/a.png") == PICTURE
        assert web.log[0].headers["user-agent"].startswith("lora-studio/")


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0.0.0.0", "127.0.0.1.", "2130706433", "0177.0.0.1", "[::1]"],
)
def test_this_machine_is_never_asked(host):
    with serve(picture) as web, Client() as fetch:
        with pytest.raises(UserError) as caught:
            fetch.picture(f"http://{host}:{web.port}/a.png")
        assert any(words in str(caught.value) for words in ("public internet", "proper host", "no web address"))
        assert web.log == []


def test_a_host_with_one_public_and_one_inner_address_is_refused():
    with serve(picture) as web, client(lookup=lambda host: ["127.0.0.1", "10.0.0.5"]) as fetch:
        with pytest.raises(UserError, match=r"pictures\.example is not on the public internet"):
            fetch.picture(f"http://pictures.example:{web.port}/a.png")
        assert web.log == []


def test_the_connection_goes_to_the_address_that_was_checked():
    """The name server answers differently the second time (DNS rebinding)."""
    answers = [["127.0.0.1"], ["10.0.0.5"]]
    asked = []

    def lookup(host):
        asked.append(host)
        return answers[len(asked) - 1]

    def close(_):
        return Reply(PICTURE, headers={"Connection": "close"})

    with serve(close) as web, client(lookup=lookup) as fetch:
        url = f"http://pictures.example:{web.port}/a.png"
        assert fetch.picture(url) == PICTURE
        assert asked == ["pictures.example"]
        assert web.log[0].headers["host"] == f"pictures.example:{web.port}"
        with pytest.raises(UserError, match="public internet"):
            fetch.picture(url)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("http://inner.example/secret", "inner.example is not on the public internet"),
        ("http://169.254.169.254/latest/meta-data/", "169.254.169.254 is not on the public internet"),
        ("file:///etc/passwd", "no web address"),
        ("http://name:pw@127.0.0.1/", "a name or a password"),
        ("http://2130706433/", "no proper host name"),
        ("/again", "more than 5 times"),
    ],
)
def test_every_redirect_is_checked(target, words):
    def lookup(host):
        return ["10.0.0.5"] if host == "inner.example" else [host]

    with serve(lambda _: Reply(status=302, headers={"Location": target})) as web, client(lookup=lookup) as fetch:
        with pytest.raises(UserError, match=words):
            fetch.picture(f"{web.url}/again")
        assert len(web.log) == (6 if target == "/again" else 1)


def test_a_few_redirects_are_followed_and_a_login_stays_with_its_host():
    with serve(picture) as other:

        def answer(request):
            where = {"/1": "/2?x=1", "/2": f"{other.url}/a.png"}[request.path]
            return Reply(status=307, headers={"Location": where})

        with serve(answer) as web, client() as fetch:
            assert fetch.get(f"{web.url}/1", login=("me", "key")).data == PICTURE
            assert all("authorization" in request.headers for request in web.log)
            assert web.log[1].query == {"x": "1"}
            assert "authorization" not in other.log[0].headers


def endless(file):
    while True:
        file.write(b"x" * 65536)


def test_an_endless_answer_is_cut_off():
    with serve(lambda _: Reply(endless)) as web, client() as fetch, pytest.raises(UserError, match="too large"):
        fetch.get(f"{web.url}/a.png", limit=2**20)


def test_an_answer_that_lies_about_its_length_is_not_believed():
    def answer(_):
        return Reply(lambda file: file.write(b"x" * 100), headers={"Content-Length": "1000"})

    with serve(answer) as web, client() as fetch:
        with pytest.raises(UserError, match="broke off"):
            fetch.get(f"{web.url}/a.png")
        assert len(web.log) == 3


def test_a_packed_bomb_is_not_unpacked():
    bomb = gzip.compress(b"\0" * 60_000_000)

    def answer(_):
        return Reply(lambda file: file.write(bomb), headers={"Content-Encoding": "gzip"})

    tracemalloc.start()
    try:
        with serve(answer) as web, client() as fetch, pytest.raises(UserError, match="too large"):
            fetch.get(f"{web.url}/a.json", limit=2**20)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("encoding", ["br", "gzip, gzip", "zstd"])
def test_a_packing_that_was_not_asked_for_is_refused(encoding):
    reply = Reply(b"x", headers={"Content-Encoding": encoding})
    with serve(lambda _: reply) as web, client() as fetch, pytest.raises(UserError, match="not asked for"):
        fetch.get(web.url)


def test_a_server_that_says_later_is_asked_later():
    def answer(_):
        busy = len(web.log) < 3
        return Reply(status=429, headers={"Retry-After": "17"}) if busy else picture(_)

    clock = Clock()
    with serve(answer) as web, client(clock) as fetch:
        before = clock.time
        assert fetch.picture(f"{web.url}/a.png") == PICTURE
        assert 34 <= clock.time - before < 40


def test_a_date_to_ask_again_is_understood():
    soon = formatdate(time.time() + 50, usegmt=True)

    def answer(_):
        return Reply(status=503, headers={"Retry-After": soon}) if len(web.log) == 1 else picture(_)

    clock = Clock()
    with serve(answer) as web, client(clock) as fetch:
        before = clock.time
        fetch.picture(f"{web.url}/a.png")
        assert clock.time - before > 10


def test_a_long_pause_is_told_not_waited_for():
    with serve(lambda _: Reply(status=503, headers={"Retry-After": "3600"})) as web, client() as fetch:
        with pytest.raises(StatusError, match="pause of 60 minutes"):
            fetch.get(web.url)
        assert len(web.log) == 1


@pytest.mark.parametrize(("status", "times"), [(404, 1), (403, 1), (400, 1), (429, 3), (500, 3), (503, 3)])
def test_only_what_may_pass_is_tried_again(status, times):
    with serve(lambda _: Reply(b"words", status)) as web, client() as fetch:
        with pytest.raises(StatusError) as caught:
            fetch.get(f"{web.url}/a")
        assert (caught.value.status, caught.value.body, len(web.log)) == (status, "words", times)
        assert str(status) in str(caught.value) and caught.value.remedy


def test_two_requests_to_a_host_keep_their_distance_and_hosts_do_not_wait_for_each_other():
    clock = Clock()
    lookup = {"one.example": ["127.0.0.1"], "two.example": ["127.0.0.1"]}.__getitem__
    with serve(picture) as web, client(clock, lookup=lookup, gap=0.0) as fetch:
        fetch.pace(f"http://one.example:{web.port}", 5)
        before = clock.time
        fetch.picture(f"http://one.example:{web.port}/1")
        fetch.picture(f"http://two.example:{web.port}/1")
        assert clock.time - before < 1
        fetch.picture(f"http://one.example:{web.port}/2")
        fetch.picture(f"http://one.example:{web.port}/3")
        assert 10 <= clock.time - before < 11


def test_a_stop_ends_the_wait_for_a_silent_server():
    asked, release = threading.Event(), threading.Event()

    def answer(_):
        asked.set()
        release.wait(30)
        return picture(_)

    try:
        with serve(answer) as web, client(should_stop=asked.is_set) as fetch, pytest.raises(Stopped):
            fetch.picture(f"{web.url}/a.png")
    finally:
        release.set()


def test_a_stop_ends_a_pause():
    stop = threading.Event()

    def answer(_):
        stop.set()
        return Reply(status=503, headers={"Retry-After": "100"})

    clock = Clock()
    with serve(answer) as web, client(clock, should_stop=stop.is_set) as fetch:
        before = clock.time
        with pytest.raises(Stopped):
            fetch.picture(f"{web.url}/a.png")
        assert clock.time - before < 1


def test_an_answer_that_trickles_for_ever_ends_with_the_limit_of_time():
    release = threading.Event()

    def trickle(file):
        while not release.wait(0.02):
            file.write(b"x")
            file.flush()

    try:
        slow = pytest.raises(UserError, match=r"more than 0\.5 seconds")
        with serve(lambda _: Reply(trickle)) as web, client(limits=Limits(total=0.5)) as fetch, slow:
            fetch.get(f"{web.url}/a.png")
    finally:
        release.set()


def test_a_host_that_cannot_be_reached_is_given_up_once():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens there
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        asked = []

        def lookup(host):
            asked.append(host)
            return [host]

        with client(lookup=lookup) as fetch:
            for _ in range(3):
                with pytest.raises(UserError, match="cannot be reached"):
                    fetch.picture(f"{url}/a.png")
        assert len(asked) == 3  # the tries of the first picture


def test_a_host_that_does_not_exist_is_named():
    def lookup(host):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with client(lookup=lookup) as fetch, pytest.raises(UserError, match=r"There is no host nowhere\.example"):
        fetch.picture("https://nowhere.example/a.png")


@pytest.mark.parametrize("status", [404, 500, 200])
def test_a_secret_is_shown_nowhere(status, caplog):
    caplog.set_level(logging.DEBUG)
    with serve(lambda _: Reply(b"<html>", status)) as web, client() as fetch:
        with pytest.raises(UserError) as caught:
            fetch.json(f"{web.url}/x", secret={"api_key": "hush-hush"}, login=("me", "hush-hush"))
        assert web.log[0].query == {"api_key": "hush-hush"}
    assert "hush-hush" not in f"{caught.value}{caught.value.remedy}{caplog.text}"


@pytest.mark.parametrize(
    "how", [{"secret": {"api_key": "x"}}, {"login": ("me", "x")}, {"headers": {"Authorization": "x"}}]
)
def test_a_secret_is_not_sent_unencrypted(how):
    asked = []
    with client(lookup=asked.append) as fetch, pytest.raises(UserError, match="not encrypted"):
        fetch.get("http://board.example/posts.json", **how)
    assert asked == []


@pytest.mark.parametrize(
    ("kind", "body", "words"),
    [
        ("text/html; charset=utf-8", b"\xef\xbb\xbf \n<!DOCTYPE html><html>", "a web page"),
        ("application/octet-stream", b"<HTML><head>", "a web page"),
        ("video/mp4", b"\0\0\0\x20ftypisom", "a video"),
    ],
)
def test_what_is_no_picture_is_told_before_it_is_fetched(kind, body, words):
    def answer(_):
        return Reply(lambda file: (file.write(body), file.flush(), endless(file)), headers={"Content-Type": kind})

    with serve(answer) as web, client() as fetch, pytest.raises(UserError, match=words):
        fetch.picture(f"{web.url}/a.png")


def test_a_picture_under_a_wrong_name_is_taken():
    with serve(lambda _: Reply(PICTURE, headers={"Content-Type": "text/html"})) as web, client() as fetch:
        assert fetch.picture(f"{web.url}/view.php?id=3") == PICTURE


def test_proxies_of_the_environment_are_not_used(monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with serve(picture) as web, client() as fetch:
        assert fetch.picture(f"{web.url}/a.png") == PICTURE


def test_the_number_of_requests_has_a_limit():
    with serve(picture) as web, client(limits=Limits(fetches=2)) as fetch:
        fetch.get(web.url)
        fetch.get(web.url)
        with pytest.raises(UserError, match="More than 2 requests"):
            fetch.get(web.url)


def test_threads_share_a_client():
    with serve(picture) as web, client(gap=0.0) as fetch, ThreadPoolExecutor(8) as pool:
        assert set(pool.map(fetch.picture, [f"{web.url}/{number}.png" for number in range(40)])) == {PICTURE}


def test_json_that_is_none_is_an_error():
    with (
        serve(lambda _: Reply(b"[" * 100_000)) as web,
        client() as fetch,
        pytest.raises(UserError, match="as it should"),
    ):
        fetch.json(web.url)


def test_the_limit_of_bytes_is_that_of_pictures():
    assert net.Limits().bytes == net.images.MAX_BYTES
