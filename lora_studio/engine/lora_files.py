"""LoRA files by their keys and shapes: which kind, for which family, how large, for which parts. No torch."""

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from lora_studio.engine.keys import module_name
from lora_studio.engine.layouts import Shapes, family_by_width

Endings = dict[str, tuple[int, ...]]

KIND_WORDS = {
    "lora": "LoRA", "dora": "DoRA", "loha": "LoHa", "lokr": "LoKr", "ia3": "(IA)3", "oft": "OFT", "boft": "BOFT",
    "glora": "GLoRA", "full": "full difference", "norm": "norm difference",
}  # fmt: skip
USABLE = ("lora", "dora", "loha", "lokr", "ia3", "oft", "boft", "glora")
MARKS = (
    ("hada_w1_a", "loha"), ("lokr_w1", "lokr"), ("lokr_w1_a", "lokr"), ("on_input", "ia3"), ("oft_blocks", "oft"),
    ("a1.weight", "glora"), ("lora_up.weight", "lora"), ("lora_down.weight", "lora"), ("diff", "full"),
    ("diff_b", "full"), ("w_norm", "norm"), ("b_norm", "norm"), ("hada_w1_b", "loha"), ("lokr_w2", "lokr"),
    ("lokr_w2_a", "lokr"),
)  # fmt: skip
"""A tensor's ending -> the kind of its module; the first that is there counts."""
NEEDED: dict[str, tuple[tuple[str, ...], ...]] = {
    "lora": (("lora_down.weight",), ("lora_up.weight",)),
    "dora": (("lora_down.weight",), ("lora_up.weight",), ("dora_scale",)),
    "loha": (("hada_w1_a",), ("hada_w1_b",), ("hada_w2_a",), ("hada_w2_b",)),
    "lokr": (("lokr_w1", "lokr_w1_a"), ("lokr_w1", "lokr_w1_b"), ("lokr_w2", "lokr_w2_a"), ("lokr_w2", "lokr_w2_b")),
    "ia3": (("weight",), ("on_input",)),
    "oft": (("oft_blocks",),),
    "boft": (("oft_blocks",),),
    "glora": (("a1.weight",), ("a2.weight",), ("b1.weight",), ("b2.weight",)),
}
"""What a module of each kind needs; of each group, one."""
PRODUCTS = (
    ("lora_up.weight", "lora_down.weight"), ("hada_w1_a", "hada_w1_b"), ("hada_w2_a", "hada_w2_b"),
    ("lokr_w1_a", "lokr_w1_b"), ("lokr_w2_a", "lokr_w2_b"), ("a1.weight", "a2.weight"), ("b1.weight", "b2.weight"),
)  # fmt: skip
"""Pairs that are multiplied: the columns of the first are the rows of the second."""
PEFT_NAME = re.compile(
    r"(unet|text_encoder|text_encoder_2)\.(.+)\.(lora_[AB]\.weight|lora_magnitude_vector(?:\.weight)?)"
)
DOTTED_NAME = re.compile(r"(.+)\.(lora_[AB]|lora\.down|lora\.up|lora_magnitude_vector)(?:\.weight)?")
DOTTED_ENDINGS = {
    "lora_A": "lora_down.weight", "lora.down": "lora_down.weight", "lora_B": "lora_up.weight",
    "lora.up": "lora_up.weight", "lora_magnitude_vector": "dora_scale",
}  # fmt: skip
VERSIONS = {"sd_v1": "sd1", "sd_v2": "sd2", "sdxl": "sdxl"}
"""Beginnings of ss_base_model_version, which other programs write with endings of their own."""
OTHER_FAMILIES = (
    (re.compile(r"joint_blocks|transformer_blocks\.\d+\.attn\.add_q_proj|pos_embed"), "sd3"),
    (
        re.compile(
            r"lora_unet_(double|single)_blocks_|(transformer|diffusion_model)\.(single_transformer|double|single)_blocks"
        ),
        "flux",
    ),
    (re.compile(r"transformer\.transformer_blocks\.\d+\.(attn|norm|proj)"), "flux"),
)


@dataclass(frozen=True)
class LoraFile:
    """What the keys of a LoRA file say."""

    family: str
    kinds: tuple[str, ...]
    """Keys of KIND_WORDS, the most frequent first."""
    rank: int
    """Of the first module; the size of a block for OFT and BOFT; 0 where there is none."""
    parts: tuple[str, ...]
    is_locon: bool
    """Whether convolutions larger than 1x1 are adapted."""
    problem: str

    @property
    def words(self) -> str:
        """The kinds, in words."""
        names = [KIND_WORDS[kind] for kind in self.kinds]
        return " + ".join("LoCon" if name == "LoRA" and self.is_locon else name for name in names) or "LoRA"


def read_lora(shapes: Shapes, metadata: Mapping[str, str]) -> LoraFile | None:
    """What a LoRA file holds, or None when it is none."""
    kohya = any(name.startswith(("lora_unet_", "lora_te", "lycoris_")) for name in shapes)
    dotted = [
        name
        for name in shapes
        if re.search(r"\.lora_[AB]\.|\.lora\.(down|up)\.|_lora\.(down|up)\.|lora_linear_layer", name)
    ]
    if not kohya and not dotted:
        return None
    modules = _kohya_modules(shapes) if kohya else _dotted_modules(shapes)
    kinds = _kinds(modules)
    family = _other_family(shapes) or _family(modules, metadata)
    parts = tuple(part for part, mark in PART_MARKS if any(name.startswith(mark) for name in modules))
    found = LoraFile(
        family=family,
        kinds=tuple(kind for kind, _ in Counter(sorted(kinds.values())).most_common()),
        rank=next((rank for rank in map(_rank, modules.values()) if rank), 0),
        parts=parts,
        is_locon=any(e.get("lora_down.weight", ())[2:] not in ((), (1, 1)) for e in modules.values()),
        problem="",
    )
    layout = "" if kohya else next((name for name in shapes if not PEFT_NAME.fullmatch(name)), "")
    return replace(found, problem=_problem(found, modules, kinds, layout))


PART_MARKS = (
    ("unet", ("lora_unet_", "lycoris_", "unet.")),
    ("text_encoder", ("lora_te_", "lora_te1_", "text_encoder.")),
    ("text_encoder_2", ("lora_te2_", "text_encoder_2.")),
)


def _kohya_modules(shapes: Shapes) -> dict[str, Endings]:
    modules: dict[str, Endings] = {}
    for name, shape in shapes.items():
        module, _, ending = name.partition(".")
        modules.setdefault(module, {})[ending] = shape
    return modules


def _dotted_modules(shapes: Shapes) -> dict[str, Endings]:
    modules: dict[str, Endings] = {}
    for name, shape in shapes.items():
        match = DOTTED_NAME.fullmatch(name)
        if match:
            modules.setdefault(match[1], {})[DOTTED_ENDINGS[match[2]]] = shape
    return modules


def _kinds(modules: Mapping[str, Endings]) -> dict[str, str]:
    """Kind by module, where it can be told."""
    found = {}
    for name, endings in modules.items():
        kind = next((kind for mark, kind in MARKS if mark in endings), "")
        if kind == "oft" and len(endings["oft_blocks"]) == 4:
            kind = "boft"
        if kind == "lora" and "dora_scale" in endings:
            kind = "dora"
        if kind:
            found[name] = kind
    return found


def _rank(endings: Endings) -> int:
    for ending, side in (
        ("lora_down.weight", 0),
        ("hada_w1_b", 0),
        ("lokr_w2_b", 0),
        ("lokr_w1_b", 0),
        ("a2.weight", 0),
        ("oft_blocks", -1),
    ):
        if endings.get(ending):
            return endings[ending][side]
    return 0


def _problem(found: LoraFile, modules: Mapping[str, Endings], kinds: Mapping[str, str], layout: str) -> str:
    if found.family in ("flux", "sd3"):
        return f"LoRA files for {'FLUX' if found.family == 'flux' else 'Stable Diffusion 3'} bases are not supported"
    if layout:
        return f"its layout is not supported ({layout}); kohya's and diffusers' present one are"
    bad = [KIND_WORDS[kind] for kind in found.kinds if kind not in USABLE]
    if bad:
        return f"{' + '.join(bad)} files are not supported"
    if found.family == "unknown":
        return "it does not tell which base it was made for"
    spelling = "sdxl" if found.family == "sdxl" else "sd"
    for name, endings in modules.items():
        if "." not in name:
            try:
                module_name(spelling, name)
            except ValueError as error:
                return str(error)
        if name not in kinds:
            return f"{name} holds nothing that is known ({', '.join(sorted(endings))})"
        problem = _module_problem(name, kinds[name], endings)
        if problem:
            return problem
    return ""


def _module_problem(name: str, kind: str, endings: Endings) -> str:
    """What keeps one module from being used: a tensor without its partner, or two that do not fit together."""
    for group in NEEDED[kind]:
        if not any(ending in endings for ending in group):
            return f"{name} has no partner {group[-1]}"
    if "dora_scale" in endings and kind != "dora":
        return f"{name} is a weight-decomposed {KIND_WORDS[kind]}, which is not supported"
    for left, right in PRODUCTS:
        a, b = endings.get(left), endings.get(right)
        tucker = kind in ("loha", "lokr") and ("hada_t1" in endings or "lokr_t2" in endings)
        if a is not None and b is not None and not tucker and (len(a) < 2 or len(b) < 2 or a[1] != b[0]):
            return f"{name}: {left} and its partner {right} do not fit together"
    return ""


# --- Families ---------------------------------------------------------------------------------------------------


def _other_family(shapes: Shapes) -> str:
    return next((family for pattern, family in OTHER_FAMILIES if any(pattern.search(name) for name in shapes)), "")


def _family(modules: Mapping[str, Endings], metadata: Mapping[str, str]) -> str:
    """By what only one family has, then by the width of the text, then by what the file says of itself."""
    if any(name.startswith(("lora_te2_", "text_encoder_2.")) for name in modules):
        return "sdxl"
    sgm = any(re.match(r"lora_unet_(input_blocks|middle_block|output_blocks)_", name) for name in modules)
    width = _text_width(modules)
    said = next((f for start, f in VERSIONS.items() if metadata.get("ss_base_model_version", "").startswith(start)), "")
    family = family_by_width(width) if width else "unknown"
    if width == 0 and said in ("sd1", "") and _is_small(modules):
        family = "sd-small"
    if (sgm or said == "sdxl") and family in (
        "unknown",
        "sd-small",
    ):  # small or unknown, in the spelling that only SDXL files have
        return "sdxl"
    return family if family != "unknown" else said or "unknown"


def _text_width(modules: Mapping[str, Endings]) -> int:
    """Width of the text states: what the cross-attention's keys read, or what the text encoder's are made of."""
    for pattern in (r"attn2[._]to[._][kv]$", r"self_attn[._][qkv]_proj$|mlp[._]fc1$"):
        for name, endings in modules.items():
            if re.search(pattern, name) and _inputs(endings):
                return _inputs(endings)
    for name, endings in modules.items():
        if re.search(r"self_attn[._][qkv]_proj$", name) and _outputs(endings):
            return _outputs(endings)
    return 0


def _is_small(modules: Mapping[str, Endings]) -> bool:
    """Whether the UNet is narrower than any published one (320 at its first size)."""
    widths = [_outputs(e) for name, e in modules.items() if re.search(r"attn[12][._]to[._][qkv]$", name)]
    return any(widths) and min(filter(None, widths)) < 320


def _inputs(endings: Endings) -> int:
    """Columns of the layer's weight, 0 when the kind does not tell."""
    for ending in ("lora_down.weight", "hada_w1_b", "a2.weight"):
        if len(endings.get(ending, ())) >= 2:
            return endings[ending][1]
    return _kronecker(endings, 1)


def _outputs(endings: Endings) -> int:
    """Rows of the layer's weight, 0 when the kind does not tell."""
    for ending in ("lora_up.weight", "hada_w1_a", "b1.weight"):
        if len(endings.get(ending, ())) >= 2:
            return endings[ending][0]
    if "oft_blocks" in endings and len(endings["oft_blocks"]) >= 3:
        return math.prod(endings["oft_blocks"][-3:-1])  # blocks x their size; BOFT has stages before
    if "on_input" in endings:
        return math.prod(endings.get("weight", (0,)))
    return _kronecker(endings, 0)


def _kronecker(endings: Endings, side: int) -> int:
    """Rows (0) or columns (1) of LoKr's product."""
    total = 1
    for factor in ("lokr_w1", "lokr_w2"):
        shape = endings.get(factor) or endings.get(f"{factor}_{'ab'[side]}")
        if not shape or len(shape) < 2:
            return 0
        total *= shape[side]
    return total
