"""What the tests of the page's doors share."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from lora_studio.core.project import Project
from lora_studio.ui.api import dispatcher
from lora_studio.ui.studio import Studio
from lora_studio.ui.tabs import curation


def asker(functions: Mapping[str, Callable[..., Any]], project: Project, tab: str) -> Callable[..., Any]:
    """Calls a tab's function as the page does; its value, or the error as the page gets it."""
    call = dispatcher(functions)

    def asked(name: str, /, **arguments: Any) -> Any:
        answer = call({"name": f"{tab}{name}", "arguments": {"project": project.slug, **arguments}})
        return answer["value"] if "value" in answer else answer["error"]

    return asked


@pytest.fixture
def ask(projects, project):
    """Curation's functions; other tabs' tests have their own."""
    return asker(curation.functions(Studio(projects)), project, "curation.")
