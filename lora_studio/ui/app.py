"""The page: a sidebar, six steps, a tab for each. Layout and wiring only; what happens is in `tabs/` and `steps/`."""

from typing import Any

from lora_studio.ui import pictures, shell
from lora_studio.ui.api import dispatcher
from lora_studio.ui.components.part import part
from lora_studio.ui.components.say import say
from lora_studio.ui.quick import gr
from lora_studio.ui.states import STEPS
from lora_studio.ui.studio import Studio
from lora_studio.ui.tabs import conception, curation, gathering, tagging, testing, training

TABS: dict[str, Any] = {
    "conception": conception,
    "gathering": gathering,
    "curation": curation,
    "tagging": tagging,
    "training": training,
    "testing": testing,
}


def theme() -> gr.themes.Base:
    """System fonts and dense spacing; the colours are those of static/css/tokens.css."""
    fonts = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif"]
    mono = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"]
    base = gr.themes.Base(
        primary_hue="indigo",
        neutral_hue="slate",
        spacing_size="sm",
        radius_size="md",
        text_size="sm",
        font=fonts,
        font_mono=mono,
    )
    names = {
        "body_text_color": "text",
        "body_text_color_subdued": "muted",
        "background_fill_primary": "panel",
        "background_fill_secondary": "ground",
        "block_border_color": "line",
        "border_color_primary": "line",
        "block_label_text_color": "muted",
        "block_title_text_color": "text",
        "block_info_text_color": "muted",
        "input_background_fill": "field",
        "input_border_color": "line",
        "input_border_color_focus": "accent",
        "input_placeholder_color": "faint",
        "button_primary_background_fill": "accent",
        "button_primary_background_fill_hover": "accent-strong",
        "button_primary_text_color": "on-accent",
        "button_secondary_background_fill": "raised",
        "button_secondary_background_fill_hover": "raised-strong",
        "button_secondary_text_color": "text",
        "checkbox_label_background_fill": "field",
        "checkbox_label_background_fill_selected": "accent-soft",
        "checkbox_label_text_color_selected": "text",
        "checkbox_background_color_selected": "accent",
        "checkbox_border_color": "line-strong",
        "slider_color": "accent",
    }
    values = {key: f"var(--ls-{value})" for key, value in names.items()}
    both = {**values, **{f"{key}_dark": value for key, value in values.items()}}
    bare = dict.fromkeys(("block_shadow", "input_shadow", "input_shadow_focus"), "none")
    bare |= {"button_primary_shadow": "none", "button_secondary_shadow": "none"}
    bare |= {"block_border_width": "0px", "block_padding": "0px"}
    ground = {
        "body_background_fill": "#f5f6f9",
        "body_background_fill_dark": "#0e1117",
    }  # literal: shown before the styles
    clear = {"block_background_fill": "transparent", "block_background_fill_dark": "transparent"}
    return base.set(**both, **bare, **clear, **ground)


def build(studio: Studio) -> gr.Blocks:
    """The whole page as Blocks; server.py mounts it."""
    functions: dict[str, Any] = shell.functions(studio) | pictures.functions(studio)
    for tab in TABS.values():
        functions |= tab.functions(studio)
    call = dispatcher(functions)
    call.__name__ = "call"
    with gr.Blocks(title="LoRA Studio", fill_width=True, fill_height=True, analytics_enabled=False) as page:
        with gr.Row(elem_id="ls-frame"):
            part("sidebar", [call])
            with gr.Column(elem_id="ls-main"):
                steps = part("steps", events=["navigate"])
                current = gr.Textbox(visible="hidden", label="Open project", elem_id="ls-current")
                said = say()
                with gr.Tabs(elem_id="steptabs", selected="conception"):
                    for name, title in STEPS.items():
                        with gr.Tab(title, id=name, elem_id=f"steptab-{name}"):
                            if name in TABS:
                                TABS[name].build(studio, steps, current, said)
        steps.navigate(_project, None, current, api_visibility="private", show_progress="hidden")
    return page


def _project(event: gr.EventData) -> str:
    return str((event._data or {}).get("project") or "")
