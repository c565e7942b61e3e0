"""How a gradio handler speaks to the page: toasts for what went right or wrong, and where to go next."""

import json
import time
from collections.abc import Callable
from functools import wraps
from typing import Any

from lora_studio.ui.api import problem
from lora_studio.ui.quick import gr

_WATCH = """
watch('value', () => { if (props.value) window.LS.hear(JSON.parse(props.value)); });
"""


def say() -> gr.HTML:
    """The invisible place that `message` and `heard` write to."""
    return gr.HTML(
        html_template='<div class="ls-say"></div>',
        js_on_load=_WATCH,
        elem_id="ls-say",
        container=False,
        padding=False,
        label="Messages",
    )


def message(text: str = "", remedy: str = "", level: str = "good", project: str = "", step: str = "") -> str:
    """A value for `say`: a toast, and where to go when `project` is given. Each differs, so that it is noticed."""
    return json.dumps(
        {"text": text, "remedy": remedy, "level": level, "project": project, "step": step, "time": time.time()}
    )


def told(handler: Callable[..., Any], outputs: int) -> Callable[..., Any]:
    """`handler` with its errors turned into a toast. It returns `outputs` values, the last one for `say`."""

    @wraps(handler)
    def call(*arguments: Any) -> Any:
        try:
            return handler(*arguments)
        except Exception as error:  # the edge of the page: what went wrong is told there, never swallowed
            found = problem(error)
            refused = message(found["message"], found["remedy"], "bad")
            return refused if outputs == 1 else (*[gr.skip() for _ in range(outputs - 1)], refused)

    return call
