"""A place on the page that one of the scripts in `static/` draws."""

from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from lora_studio.ui.quick import gr

_MOUNT = """
const start = () => window.LS.mount(%r, element, typeof server === "undefined" ? null : server, trigger);
if (window.LS) start(); else window.addEventListener("ls:ready", start, {once: true});
%s
"""

_HEARD = """
const pass = () => { if (props.value && window.LS) window.LS.pass(%r, JSON.parse(props.value)); };
watch('value', pass);
pass();
"""


def part(
    name: str,
    functions: Sequence[Callable[..., Any]] = (),
    events: Sequence[str] = (),
    classes: str = "",
    elem_id: str = "",
) -> gr.HTML:
    """The place of the part `name`. `functions` can be called by the script; `events` are those it triggers."""
    listened = "\n".join(f"// trigger('{event}')" for event in events)  # gradio looks for the quoted names
    return gr.HTML(
        html_template='<div class="ls-part"></div>',
        css_template="",
        js_on_load=_MOUNT % (name, listened),
        apply_default_css=False,
        server_functions=list(functions) or None,
        elem_id=elem_id or f"ls-{name}",
        elem_classes=["ls-html", *classes.split()],
        container=False,
        padding=False,
        label=name.capitalize(),
    )


def sentence(value: str = "") -> gr.HTML:
    """A line of HTML that a handler writes; the handler escapes what it puts in."""
    return gr.HTML(
        value, apply_default_css=False, elem_classes="ls-html ls-part", container=False, padding=False, label="Remark"
    )


def heard(name: str) -> gr.HTML:
    """An invisible place whose value, JSON that a handler writes, the scripts get as the event `ls:NAME`."""
    return gr.HTML(
        html_template='<div class="ls-say"></div>',
        js_on_load=_HEARD % name,
        elem_id=f"ls-{name}",
        elem_classes="ls-heard",
        container=False,
        padding=False,
        label=name.capitalize(),
    )


def heading(title: str, text: str = "") -> gr.HTML:
    """A card's title, with a line under it."""
    under = f'<p class="ls-muted">{escape(text)}</p>' if text else ""
    return sentence(f"<h2>{escape(title)}</h2>{under}")
