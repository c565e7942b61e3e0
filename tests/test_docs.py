"""The docs say what the program does."""

from tools import settings_page


def test_the_page_of_settings_is_that_of_the_settings():
    assert settings_page.PAGE.read_text("utf-8") == settings_page.page(), "run python -m tools.settings_page"
