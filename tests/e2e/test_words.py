"""All captions together: tags, check, absorbed, charts, and the diff before each change, in a real browser."""

import pytest

from lora_studio.core.project import Plan, Project
from lora_studio.steps import captioning, gathering
from tests.e2e.conftest import serving

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
HOSTILE = "<img src=x onerror=window.hit=1> & <b>bold</b>"
CAPTIONS = (
    "zorbi, blue hair, smile, red shirt, outdoors",
    "zorbi, blue hair, smile, red shirt, indoors",
    f"zorbi, blue hair, red shirt, {HOSTILE}",
    "zorbi, blue hair, smlie, red shirt, outdoors",
    "blue hair, open mouth, red shirt, long_sleeves",
    "zorbi, blue hair, open mouth, red shirt, smile",
    "zorbi, blue hair, smile, red shirt, day, night",
    "zorbi, smile, blue hair, red shirt, outdoors",
)
ROWS = "document.querySelectorAll('.ls-diff-row:not(.head)').length"


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    """One for all tests here: each has a project of its own in it."""
    projects, log = tmp_path_factory.mktemp("projects"), tmp_path_factory.mktemp("log") / "server.log"
    with serving(projects, log) as running:
        yield running


@pytest.fixture
def project(studio, picture_folder) -> Project:
    plan = Plan(name="Words", trigger="zorbi", captions="both", defining=("blue hair",), varies=("clothes",))
    project = Project.create(studio.projects, plan)
    gathering.gather(project, [picture_folder(len(CAPTIONS))])
    with project.edit("Captions") as edit:
        for image, caption in zip(project.images(), CAPTIONS, strict=True):
            edit.set(image.id, caption=caption, prose=f"A zorbi, smiling, in picture {image.id}.")
    return project


@pytest.fixture
def visit(studio, browser, watch, project):
    def visited(view: str):
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        watch.on(page)
        page.set_default_timeout(60_000)
        page.goto(f"{studio.url}?project={project.slug}&step=tagging")
        page.locator(f"#ls-tag-view-{view}").click()
        page.saved = lambda label: page.locator("#ls-undo", has_text=label).wait_for()
        page.tag = lambda name: page.locator(f'.ls-tags-row[data-tag="{name}"]')
        page.count = lambda name: page.tag(name).locator(".ls-tags-count").inner_text()
        page.diff = lambda count: page.wait_for_function(f"{ROWS} === {count}")
        return page

    return visited


def captions(project: Project) -> list[str]:
    return [image.caption for image in project.images()]


def grid_shows(page, count: int) -> None:
    page.wait_for_function("(count) => document.querySelectorAll('#ls-tagging .ls-cell').length === count", arg=count)


def test_tags_are_renamed_merged_moved_and_deleted_by_keyboard_each_after_its_diff(visit, watch, project):
    page = visit("tags")
    page.tag("blue hair").wait_for()
    assert page.count("blue hair") == "8"
    page.keyboard.press("/")
    page.keyboard.type("open")
    page.keyboard.press("Enter")  # to the table; the only one that fits is chosen
    page.keyboard.press("Enter")
    page.locator("#ls-edit-tag").fill("wide mouth")
    page.diff(2)
    assert "−open mouth" in page.locator(".ls-diff-word.gone").first.inner_text()
    assert "+wide mouth" in page.locator(".ls-diff-word.new").first.inner_text()
    assert captions(project) == list(CAPTIONS)
    page.locator("#ls-diff-apply").click()
    page.saved("Replace open mouth by wide mouth")
    assert sum("wide mouth" in caption for caption in captions(project)) == 2
    page.locator("#ls-tags-find").fill("")
    page.tag("wide mouth").wait_for()

    page.tag("smile").click()
    page.tag("smlie").click(modifiers=["Control"])
    page.keyboard.press("m")
    page.locator("#ls-diff-apply:enabled").wait_for()
    assert page.locator("#ls-edit-tag").input_value() == "smile"  # the more frequent of the two
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    page.saved("Merge smile, smlie into smile")
    page.wait_for_function("document.querySelector('.ls-tags-row[data-tag=smlie]') === null")
    assert page.count("smile") == "6"

    page.tag("red shirt").click()
    page.keyboard.press("f")
    page.locator("#ls-diff-apply:enabled").wait_for()
    assert page.locator(".ls-diff-word.moved", has_text="red shirt").count() > 0
    page.keyboard.press("Enter")  # the button has the focus
    page.saved("Move red shirt to the front")
    assert captions(project)[0].startswith("zorbi, red shirt, blue hair")

    page.keyboard.press("Home")
    page.keyboard.press("Space")
    page.keyboard.press("Space")
    page.keyboard.press("Shift+ArrowDown")
    assert page.locator(".ls-tags-row.selected").count() == 2
    page.tag("outdoors").click()
    page.keyboard.press("Delete")
    page.diff(3)
    page.keyboard.press("Enter")
    page.saved("Remove outdoors")
    page.keyboard.press("u")
    page.locator("#ls-toasts", has_text="Undone: Remove outdoors").wait_for()
    page.tag("outdoors").click()
    page.keyboard.press("s")
    grid_shows(page, 3)
    assert watch.faults == []


def test_tags_are_text_and_a_change_can_be_kept_to_the_chosen_pictures(visit, watch, project):
    page = visit("tags")
    page.locator(".ls-tags-row", has_text="<b>bold</b>").click()
    page.locator(".ls-words-title", has_text=HOSTILE).wait_for()
    page.keyboard.press("F2")
    page.locator("#ls-edit-tag").fill("<script>window.hit=2</script>")
    page.diff(1)
    page.locator("#ls-diff-apply").click()
    page.saved("Replace")
    page.locator(".ls-tags-row", has_text="<script>").wait_for()
    for view in ("check", "absorbed", "charts"):
        page.locator(f"#ls-tag-view-{view}").click()
    page.locator(".ls-bar-row", has_text="<script>").wait_for()
    assert page.evaluate("window.hit === undefined && !document.querySelector('#ls-tagging :is(script, b b)')")

    page.locator("#ls-tag-view-pictures").click()
    page.locator("#ls-tagging .ls-cell").first.click()
    page.keyboard.press("Shift+ArrowRight")
    page.locator("#ls-tag-view-tags").click()
    page.locator("#ls-scope-selected").click()
    page.locator("#ls-words-add").click()
    page.locator("#ls-edit-tag").fill("solo")
    page.get_by_role("radio", name="First behind the trigger").click()
    page.diff(2)
    page.locator("#ls-diff-apply").click()
    page.saved("Put solo at place 1")
    assert [caption.startswith("zorbi, solo") for caption in captions(project)[:3]] == [True, True, False]
    assert watch.faults == []


def test_whole_captions_are_replaced_in_and_tidied_and_a_diff_that_is_out_of_date_is_drawn_anew(visit, watch, project):
    page = visit("tags")
    page.locator("#ls-words-replace").click()
    page.locator("#ls-edit-pattern").fill("(red|blue")
    page.get_by_role("radio", name="Regular expression").click()
    page.locator(".ls-diff-told [role=alert]", has_text="is no regular expression").wait_for()
    assert page.locator("#ls-diff-apply").is_disabled()
    page.locator("#ls-edit-pattern").fill("(red|blue) (shirt)")
    page.locator("#ls-edit-by").fill("green \\2")
    page.diff(8)

    first = project.images()[0]
    captioning.set_text(project, first.id, "zorbi, red shirt, sitting")  # somebody else, meanwhile
    page.locator("#ls-diff-apply").click()
    page.locator(".ls-diff-told [role=alert]", has_text="have changed since the preview").wait_for()
    assert captions(project)[1] == CAPTIONS[1]
    page.locator(".ls-diff-row:not(.head)", has_text="sitting").wait_for()
    page.locator("#ls-diff-apply:enabled").click()
    page.saved("Replace /")
    assert captions(project)[0] == "zorbi, green shirt, sitting"

    page.locator("#ls-words-replace").click()
    page.locator("#ls-edit-pattern").fill("smiling, in")
    page.locator("#ls-edit-by").fill("calm in")
    page.get_by_role("radio", name="In sentences").click()
    page.diff(8)
    page.locator("#ls-diff-apply").click()
    page.saved("Replace smiling, in")
    assert project.images()[0].prose == "A zorbi, calm in picture 1."

    page.locator("#ls-words-underscores").click()
    page.diff(1)
    page.keyboard.press("Escape")
    page.locator(".ls-diff").wait_for(state="detached")
    page.locator("#ls-words-dedupe").click()
    page.locator(".ls-diff-told", has_text="Nothing would change").wait_for()
    assert page.locator("#ls-diff-apply").is_disabled()
    assert [fault for fault in watch.faults if "409" not in fault] == []


def test_a_diff_of_10_000_captions_shows_the_first_200_and_tells_how_many_there_are(visit, watch, project):
    page = visit("tags")
    page.evaluate(
        """async () => {
          const loaded = performance.getEntriesByType('resource').map((one) => one.name);
          const { confirmDiff, marked } = await import(loaded.find((name) => name.endsWith('/words-diff.js')));
          const tags = Array.from({ length: 1200 }, (_, n) => `tag ${n}`);
          const [before, turned] = [tags.join(', '), tags.reverse().join(', ')];
          const changes = Array.from({ length: 10000 }, (_, id) => id < 300
            ? { id, field: 'caption', before, after: `new ${id}, ${turned}` }
            : { id, field: 'caption', before: 'a', after: 'b' });
          window.parts = marked('a, b, e, c', 'c, a, e, d');
          const preview = async () => ({ label: 'x', count: 10000, digest: 'd', changes });
          window.done = confirmDiff({ title: 'Many', preview, apply: async (digest) => digest });
        }"""
    )
    page.locator(".ls-diff-told", has_text="10\u202f000 captions change").wait_for()
    page.locator(".ls-diff-told", has_text="the first 200 are shown").wait_for()
    page.diff(200)
    assert page.locator(".ls-diff-word").count() < 200 * 2 * 165
    page.locator("#ls-diff-apply").click()
    assert page.evaluate("window.done") == "d"
    kinds = [[(part["text"], part["kind"]) for part in side] for side in page.evaluate("window.parts").values()]
    assert kinds == [
        [("a", ""), ("b", "gone"), ("e", ""), ("c", "moved")],
        [("c", "moved"), ("a", ""), ("e", ""), ("d", "new")],
    ]
    assert watch.faults == []


def test_what_check_finds_is_mended_and_what_will_be_absorbed_is_pruned(visit, watch, project):
    page = visit("check")
    missing = page.locator("[data-kind=trigger_missing]")
    missing.get_by_role("button", name="Fix").click()
    page.diff(1)
    page.locator("#ls-diff-apply").click()
    page.saved("Put zorbi first")
    missing.wait_for(state="detached")
    assert captions(project)[4].startswith("zorbi, blue hair")
    page.locator("[data-kind=contradiction]", has_text="night").get_by_role("button", name="Show 1 picture").click()
    grid_shows(page, 1)

    page.locator("#ls-tag-view-absorbed").click()
    row = page.locator('tr[data-tag="blue hair"][data-action=prune]')
    assert "The plan names blue hair as defining" in row.inner_text()
    page.locator(".ls-fused", has_text="red shirt").wait_for()
    row.get_by_role("button", name="Prune").focus()
    page.keyboard.press("Enter")
    page.diff(8)
    page.keyboard.press("Enter")
    page.saved("Prune blue hair")
    row.wait_for(state="detached")
    page.locator("section[aria-label='Pruned already']", has_text="blue hair").wait_for()
    assert project.plan.prune_tags == ("blue hair",)
    assert not any("blue hair" in caption for caption in captions(project))
    assert watch.faults == []


def test_charts_are_read_by_keyboard_and_lead_to_the_pictures(visit, watch, project):
    page = visit("charts")
    page.locator(".ls-bar-row", has_text="smile").focus()
    page.keyboard.press("Enter")
    grid_shows(page, 5)
    page.locator("#ls-tag-view-charts").click()
    page.locator("tr[data-category=clothes]").wait_for()
    page.locator("#ls-heat").focus()
    told = page.locator("#ls-heat-told")
    before = told.inner_text()
    page.keyboard.press("ArrowRight")
    page.wait_for_function("(text) => document.getElementById('ls-heat-told').textContent !== text", arg=before)
    assert "together on" in told.inner_text() or "never stand together" in told.inner_text()
    page.locator(".ls-heat-list tr", has_text="blue hair + red shirt").get_by_role("button").focus()
    page.keyboard.press("Enter")
    grid_shows(page, 8)
    assert watch.faults == []
