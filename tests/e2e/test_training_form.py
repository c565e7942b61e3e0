"""The settings of Training in a real browser: what appears with what, what is marked, what is told."""

import pytest

from lora_studio.core.project import Plan, Project
from lora_studio.steps import gathering, training

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.fixture
def project(studio, picture_folder) -> Project:
    project = Project.create(studio.projects, Plan(name="Settings", trigger="zorbi"))
    gathering.gather(project, [picture_folder(6)])
    return project


@pytest.fixture
def page(studio, browser, watch, project):
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    watch.on(page)
    page.set_default_timeout(30_000)
    page.goto(f"{studio.url}?project={project.slug}&step=training")
    page.locator(".ls-steps-plan p").first.wait_for()
    page.wait_for_function("document.querySelector('[data-summary=LoRA]')")
    yield page
    assert watch.faults == []


def field(page, name: str):
    return page.locator(f"#ls-set-{name.replace('.', '-')}")


def typed(page, name: str, text: str) -> None:
    """Write into a field and leave it."""
    box = field(page, name).locator("input, textarea").first
    box.fill(text)
    box.blur()


def choose(page, where: str, option: str) -> None:
    page.locator(f"{where} input").click()
    page.get_by_role("option", name=option).click()


def opened(page, section: str) -> None:
    page.locator(f"#ls-advanced-{section} > button").click()


def saved(page, project: Project, ready) -> None:
    """Wait until the settings are kept."""
    for _ in range(100):
        if ready(training.current(project)):
            return
        page.wait_for_timeout(100)
    pytest.fail(f"not kept: {training.current(project)}")


def test_fields_come_and_go_with_what_they_hang_on(page, project):
    opened(page, "adapter")
    assert field(page, "adapter.factor").count() == 0 or not field(page, "adapter.factor").is_visible()
    choose(page, "#ls-set-adapter-kind", "LoKr")
    field(page, "adapter.factor").wait_for()
    choose(page, "#ls-set-adapter-layers", "All, with convolutions (LoCon)")
    field(page, "adapter.conv_alpha").locator("[data-note*=' of ']").wait_for()
    choose(page, "#ls-set-adapter-kind", "LoHa")
    field(page, "adapter.factor").wait_for(state="hidden")
    opened(page, "schedule")
    field(page, "schedule.restarts").wait_for()
    choose(page, "#ls-set-schedule-kind", "Polynomial")
    field(page, "schedule.power").wait_for()
    field(page, "schedule.restarts").wait_for(state="hidden")
    page.locator(".ls-curve-text", has_text="Polynomial").wait_for()
    opened(page, "objective")
    choose(page, "#ls-set-objective-loss", "Huber")
    field(page, "objective.huber_c").wait_for()
    saved(page, project, lambda config: config.objective.loss == "huber" and config.adapter.kind == "loha")


def test_a_preset_is_taken_over_named_and_marked(page, project):
    choose(page, "#ls-preset", "Prodigy: finds")
    page.locator(".ls-toast", has_text="Optimizer AdamW → Prodigy").wait_for()
    page.locator("#ls-set-optimizer-unet_lr.ls-changed").wait_for()
    page.locator("#ls-advanced-optimizer.ls-changed").wait_for()
    page.locator("#ls-only-changed").click()
    field(page, "optimizer.kind").wait_for()
    assert not field(page, "run.epochs").is_visible() and not page.locator("#ls-advanced-run").is_visible()
    page.locator("#ls-only-changed").click()
    field(page, "run.epochs").wait_for()
    assert page.locator("#ls-preset input").input_value().startswith("Prodigy")
    page.locator("#ls-recommended").click()
    page.locator("#ls-only-changed").wait_for(state="hidden")
    assert training.current(project) == training.recommended(project)


def test_one_setting_goes_back_with_one_click(page, project):
    before = field(page, "adapter.rank").locator("input").input_value()
    typed(page, "adapter.rank", "32")
    typed(page, "run.epochs", "3")
    field(page, "adapter.alpha").locator("[data-note*=' of 32 = ']").wait_for()
    field(page, "adapter.rank").locator(".ls-back").click()
    field(page, "adapter.rank").locator(".ls-back").wait_for(state="detached")
    assert field(page, "adapter.rank").locator("input").input_value() == before
    assert field(page, "run.epochs").locator(".ls-back").count() == 1
    saved(page, project, lambda config: config.adapter.rank == int(before) and config.run.epochs == 3)


def test_wrong_values_are_told_and_lead_to_their_field(page, project):
    opened(page, "schedule")
    typed(page, "schedule.warmup", "2")
    opened(page, "schedule")
    typed(page, "adapter.rank", "0")
    page.locator(".ls-note.bad", has_text="adapter.rank").wait_for()
    page.locator("#ls-set-adapter-rank.ls-bad").wait_for()
    page.locator(".ls-note.bad button", has_text="schedule.warmup").click()
    page.wait_for_function("document.activeElement.closest('#ls-set-schedule-warmup')")
    typed(page, "adapter.rank", "8")
    typed(page, "schedule.warmup", "0.1")
    page.locator(".ls-steps-plan p").wait_for()
    assert page.locator(".ls-bad").count() == 0


def test_the_plan_follows_the_settings(page):
    typed(page, "run.epochs", "7")
    page.locator(".ls-steps-plan p", has_text="x 7 epochs").wait_for()
    typed(page, "data.repeats", "2")
    page.locator(".ls-steps-plan p", has_text="make 12 samples an epoch").wait_for()


def test_a_setting_is_found_by_a_word_and_read_at_the_foot(page):
    page.locator("#ls-find-setting").fill("pissa")
    field(page, "adapter.init").wait_for()
    assert not field(page, "run.epochs").is_visible() and not page.locator("#ls-advanced-run").is_visible()
    field(page, "adapter.init").hover()
    page.locator("#ls-formhelp-train", has_text="strongest directions").wait_for()
    page.locator("#ls-formhelp-train code", has_text="adapter.init").wait_for()
    page.locator("#ls-find-setting").fill("lokr factor")
    page.locator("#ls-find-said", has_text="counts when Kind of adapter is LoKr").wait_for()
    page.locator("#ls-find-setting").fill("xylophone")
    page.locator("#ls-find-said", has_text="No setting is about that").wait_for()
    page.locator("#ls-find-setting").press("Escape")
    field(page, "run.epochs").wait_for()
    field(page, "adapter.init").wait_for(state="hidden")
