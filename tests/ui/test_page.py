"""The page as Python builds it: quick to import, private listeners, no torch, plans saved as typed."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from lora_studio.core.project import Plan
from lora_studio.ui.server import STATIC
from lora_studio.ui.tabs import conception

IMPORT = """
import inspect, sys
before = inspect.getfile
import lora_studio.ui.app
from lora_studio.ui.quick import gr
assert inspect.getfile is before, "getfile was not restored"
assert "torch" not in sys.modules, "the page must not import torch"
assert inspect.getfile(gr.HTML)
print("good")
"""


def test_the_page_imports_without_torch_and_leaves_inspect_alone():
    done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "good", done.stderr[-2000:]


def test_no_pyi_is_written_beside_our_sources():
    assert list(Path(conception.__file__).parents[1].rglob("*.pyi")) == []


def test_no_listener_is_public(projects):
    from lora_studio.ui.app import build
    from lora_studio.ui.studio import Studio

    page = build(Studio(projects))
    public = [fn.name for fn in page.fns.values() if fn.api_visibility == "public"]
    assert public == []


@pytest.mark.parametrize(
    ("word", "level"),
    [("zorbi", "good"), ("", "warn"), ("blue cat", "warn"), ("a, b", "bad"), ("hat", "warn"), ("ab", "warn")],
)
def test_a_trigger_is_judged(word, level, monkeypatch):
    monkeypatch.setattr(conception, "known_words", lambda: frozenset({"hat"}))
    found, text = conception.trigger_note(word)
    assert found == level and text


def test_the_plan_is_read_from_its_form():
    plan = Plan(name="Zorbi", trigger="zorbi", title="A line")
    files = (" Ann ", "CC0", "", "")
    answers = ("green hair, star eyes", "smile\nfrown", "", "zorbi, smile\n\nzorbi, frown", "a cat")
    read = conception._plan(plan, ("Zorbi 2", " zorbi ", "style", "", "A sentence.", *answers, *files))
    assert read.kind == "style" and read.base == "starter" and read.title == "A line"
    assert (read.author, read.licence, read.credit, read.tagger) == ("Ann", "CC0", "", "starter")
    assert read.defining == ("green hair", "star eyes") and read.varies == ("smile", "frown")
    assert read.test_prompts == ("zorbi, smile", "zorbi, frown") and read.bleed_prompts == ("a cat",)


def test_scripts_never_assign_html():
    scripts = Path(conception.__file__).parents[1] / "static"
    for path in scripts.glob("*.js"):
        text = path.read_text("utf-8")
        code = "\n".join(line for line in text.splitlines() if not line.strip().startswith("//"))
        for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
            assert word not in code, f"{path.name} uses {word}: names and tags are hostile"


def test_no_two_parts_of_the_page_style_the_same_class():
    """A bare class (`.ls-x {`) belongs to one stylesheet: in a second one it changes what the first one drew."""
    owner = {}
    for path in sorted((STATIC / "css").glob("*.css")):
        text = re.sub(r"/\*.*?\*/|@media[^{]*\{", "", path.read_text("utf-8"), flags=re.S)
        for selectors in re.findall(r"([^{}]+)\{", text):
            for name in (selector.strip() for selector in selectors.split(",")):
                if re.fullmatch(r"\.ls-[a-z-]+", name):
                    assert owner.setdefault(name, path.name) == path.name, name
