"""A form read off the settings: one field for each, with its bounds and its sentence; and the way back."""

import json
from typing import Any, TypeVar

from lora_studio.core.settings import SettingInfo, Settings, SettingsError, describe
from lora_studio.ui.quick import gr

WORDS = {"lr": "learning rate", "unet": "UNet", "snr": "SNR", "num": "number of", "ff": "FF"}
TITLES = {
    "adapter.kind": "Kind of adapter",
    "adapter.rs_lora": "rsLoRA scaling",
    "adapter.conv_rank": "Conv rank",
    "adapter.conv_alpha": "Conv alpha",
    "adapter.module_dropout": "Layer dropout",
    "adapter.include": "Only layers named",
    "adapter.exclude": "Without layers named",
    "adapter.ranks": "Ranks by layer",
    "adapter.init": "Begin from",
    "adapter.factor": "LoKr factor",
    "adapter.precision": "Adapter precision",
    "adapter.continue_from": "Continue a LoRA file",
    "optimizer.text_encoder_lr": "Text learning rate",
    "optimizer.text_encoder_2_lr": "Second text rate (XL)",
    "optimizer.max_grad_norm": "Longest step",
    "optimizer.lora_plus_ratio": "LoRA+ ratio",
    "optimizer.rates": "Rates by layer",
    "optimizer.d_coef": "Prodigy factor",
    "schedule.restart_decay": "Height of restarts",
    "schedule.warmup": "Warm-up share",
    "schedule.warmup_steps": "Warm-up steps",
    "schedule.end": "Rate at the end",
    "data.more_resolutions": "More resolutions",
    "data.bucket_min": "Bucket shortest side",
    "data.bucket_max": "Bucket longest side",
    "data.no_upscale": "Never enlarge",
    "data.flip": "Mirror too",
    "data.color_jitter": "Colour change",
    "data.random_crop": "Crop at random",
    "data.alpha_mask": "Transparency is mask",
    "data.balance": "Tags to balance",
    "data.regularization": "Regularisation folder",
    "data.keep_tokens": "Tags kept in front",
    "data.wildcards": "Wildcards {a|b}",
    "data.max_tokens": "Longest caption",
    "data.weighted_captions": "Weights in captions",
    "objective.weighting": "Weighting of noise levels",
    "objective.min_snr_gamma": "Min-SNR gamma",
    "objective.huber_c": "Large error from",
    "objective.huber_schedule": "Changes with noise",
    "objective.multires_iterations": "Pyramid noise sizes",
    "objective.multires_discount": "Pyramid noise discount",
    "objective.timestep_min": "Least noise level",
    "objective.timestep_max": "Highest noise level",
    "objective.timestep_distribution": "Noise levels drawn",
    "objective.logit_std": "Logit width",
    "objective.mask_outside": "Weight outside masks",
    "objective.prior_weight": "Regularisation weight",
    "base.vae": "Separate VAE",
    "base.zero_terminal_snr": "Zero terminal SNR",
    "run.save_every_epochs": "Save every … epochs",
    "run.sample_every_epochs": "Draw every … epochs",
    "run.keep_states": "States kept",
    "run.validation_share": "Share held out",
    "run.precision": "Base precision",
    "run.quantize": "Quantise the base",
    "run.offload_blocks": "Blocks in main memory",
    "run.devices": "Graphics cards",
    "run.shard": "Base spread over cards",
    "run.ema_decay": "Moving average",
    "run.cache_gb": "Cache limit (GB)",
    "sample.num_steps": "Drawing steps",
}
"""Names for people where the setting's own, spelt out, would not say enough or not fit over its field."""
LABELS = {
    "lora": "LoRA",
    "dora": "DoRA",
    "loha": "LoHa",
    "lokr": "LoKr",
    "ia3": "(IA)³",
    "oft": "OFT",
    "boft": "BOFT",
    "glora": "GLoRA",
    "attention": "Attention only",
    "attention+ff": "Attention and feed-forward (usual)",
    "all": "All, with convolutions (LoCon)",
    "default": "Nothing (usual)",
    "pissa": "PiSSA",
    "olora": "OLoRA",
    "loftq": "LoftQ",
    "adamw": "AdamW",
    "adamw8bit": "AdamW 8-bit (NVIDIA)",
    "came": "CAME",
    "schedulefree_adamw": "Schedule-free AdamW",
    "schedulefree_prodigy": "Schedule-free Prodigy",
    "stable_adamw": "StableAdamW",
    "rex": "REX",
    "rex_with_restarts": "REX with restarts",
    "one_cycle": "One cycle",
    "min_snr": "Min-SNR",
    "p2": "P2",
    "l2": "Squared (L2)",
    "smooth_l1": "Smooth L1",
    "snr": "By signal-to-noise ratio",
    "logit_normal": "Middle (logit-normal)",
    "content": "Noisy (content)",
    "style": "Clear (style)",
    "uniform": "All alike",
    "auto": "Automatic",
    "epsilon": "Noise (epsilon)",
    "v_prediction": "Velocity (v-prediction)",
    "fp32": "fp32",
    "bf16": "bf16",
    "fp16": "fp16",
    "fp8": "fp8",
    "int8": "int8",
    "nf4": "nf4",
    "ddim": "DDIM",
    "euler_a": "Euler ancestral",
    "dpmpp_2m": "DPM++ 2M",
    "dpmpp_2m_karras": "DPM++ 2M Karras",
    "unipc": "UniPC",
    "lcm": "LCM",
}
"""Choices as people know them; any other is its value, spelt out."""
WIDE = 18
"""Letters from which a choice needs a line of its own."""
S = TypeVar("S", bound=Settings)
LONG = ("prompts", "preservation_prompts", "negative", "include", "exclude", "ranks", "rates")
"""Fields of several lines; lists among them have one entry a line, for entries may hold commas."""


def title(info: SettingInfo) -> str:
    """A readable name: `optimizer.unet_lr` -> `UNet learning rate`; a bare `kind` is named by its section."""
    if info.name in TITLES:
        return TITLES[info.name]
    name = info.name.rpartition(".")[2]
    if name == "kind":
        return info.section.rpartition(".")[2].capitalize()
    if info.title != name.replace("_", " ").capitalize():
        return info.title
    text = " ".join(WORDS.get(word, word) for word in name.split("_"))
    return text[0].upper() + text[1:]


def label(value: str) -> str:
    """A choice as it is shown: `adamw8bit` -> `AdamW 8-bit (NVIDIA)`."""
    return LABELS.get(value) or value.replace("_", " ").capitalize()


def spoken(info: SettingInfo, value: Any) -> str:
    """A setting's value in a sentence."""
    if info.type == "choice":
        return label(value)
    if info.type == "bool":
        return "on" if value else "off"
    return ", ".join(str(shown(info, value)).splitlines()) or "empty"


def together(drawn: list[SettingInfo]) -> list[SettingInfo]:
    """The same, each that hangs on another one right behind it."""
    names = {info.name for info in drawn}
    found = []
    for info in drawn:
        if info.when is None or info.when[0] not in names:
            found += [info, *(other for other in drawn if other.when and other.when[0] == info.name)]
    return found


def infos(model: type[Settings], names: tuple[str, ...]) -> list[SettingInfo]:
    """The settings of these names, in this order. A name that is not there is a bug."""
    known = {info.name: info for info in describe(model)}
    return [known[name] for name in names]


def field(info: SettingInfo, **changes: Any) -> Any:
    """The gradio component for one setting, with its default."""
    common: dict[str, Any] = {
        "label": title(info),
        "info": info.doc,
        "value": shown(info, info.default),
        "elem_id": f"ls-set-{info.name.replace('.', '-')}",
        "elem_classes": "ls-wide" if _wide(info) else None,
        "min_width": 120,
        **changes,
    }
    if info.type == "choice":
        return gr.Dropdown([(label(choice), choice) for choice in info.choices], filterable=False, **common)
    if info.type == "bool":
        return gr.Checkbox(**common)
    if info.type == "int":
        return gr.Number(precision=0, **common)
    return gr.Textbox(lines=2 if info.name.rpartition(".")[2] in LONG else 1, max_length=20_000, **common)


def shown(info: SettingInfo, value: Any) -> Any:
    """A setting's value as its field holds it."""
    if info.type == "list":
        parts = [str(part) for part in value or ()]
        return ("\n" if _by_line(info) else ", ").join(parts)
    if info.type == "float":
        return number(value)
    return value


def number(value: Any) -> str:
    """A float without noise: 0.0005, 8, 1e-06."""
    return "" if value is None else f"{float(value):.10g}"


def dotted(data: dict[str, Any], name: str) -> Any:
    """`{"adapter": {"rank": 8}}`, `adapter.rank` -> 8"""
    for part in name.split("."):
        data = data[part]
    return data


def values(config: Settings, drawn: list[SettingInfo]) -> list[Any]:
    """What the fields show for a configuration."""
    data = config.to_dict()
    return [shown(info, dotted(data, info.name)) for info in drawn]


def visible(drawn: list[SettingInfo], shown_values: list[Any]) -> list[bool]:
    """For each field, whether its setting counts with what stands in the others."""
    now = {info.name: value for info, value in zip(drawn, shown_values, strict=True)}
    return [info.when is None or str(now.get(info.when[0])) in info.when[1] for info in drawn]


def read(base: S, drawn: list[SettingInfo], given: tuple[Any, ...]) -> S:
    """`base` with what stands in the fields; one that does not count now, and so is not on the page, is its default,
    for nobody could mend what it stands against. Raises SettingsError with every problem."""
    changes: dict[str, Any] = {}
    problems = []
    for info, value, counts in zip(drawn, given, visible(drawn, list(given)), strict=True):
        if not counts:
            changes[info.name] = info.default
        elif info.type in ("int", "float") and value in (None, ""):
            problems.append(f"{info.name}: is empty; write a number")
        elif info.type == "list":
            changes[info.name] = _parts(info, value or "")
        else:
            changes[info.name] = value.strip() if isinstance(value, str) else value
    if problems:
        raise SettingsError(problems)
    return base.with_changes(changes)


def _wide(info: SettingInfo) -> bool:
    """Whether a field needs a line of its own: texts, lists but the two betas, long choices."""
    if info.type == "choice":
        return any(len(label(choice)) >= WIDE for choice in info.choices)
    return info.type in ("str", "list") and info.name != "optimizer.betas"


def _by_line(info: SettingInfo) -> bool:
    return info.name.rpartition(".")[2] in LONG or "prompts" in info.name


def _parts(info: SettingInfo, text: str) -> list[Any]:
    if _by_line(info):
        return [line.strip() for line in text.splitlines() if line.strip()]
    parts = [part.strip() for part in text.replace("\n", ",").split(",") if part.strip()]
    return [_number(part) for part in parts]


def _number(text: str) -> Any:
    """A number where the text is one, else the text: pydantic says what is wrong with it."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
