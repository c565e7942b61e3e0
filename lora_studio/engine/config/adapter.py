"""What is trained: kind, size and place of the adapter."""

import re
from typing import Literal, Self

from pydantic import Field, model_validator

from lora_studio.core.settings import Settings, only

Kind = Literal["lora", "dora", "loha", "lokr", "ia3", "oft", "boft", "glora"]


def pairs(entries: tuple[str, ...], name: str) -> list[tuple[str, float]]:
    """`REGEX=NUMBER` entries in order. Raises ValueError naming `name` and the entry that cannot be read."""
    found = []
    for entry in entries:
        pattern, _, number = entry.rpartition("=")
        try:
            re.compile(pattern)
            value = float(number)
        except (re.error, ValueError):
            value = -1.0
        if not pattern.strip() or not 0 <= value < float("inf"):
            raise ValueError(f"{name}: {entry!r} cannot be read; write REGEX=NUMBER, e.g. mid_block=16")
        found.append((pattern, value))
    return found


class AdapterConfig(Settings):
    """What is trained."""

    kind: Kind = "lora"
    """Kind of adapter. LoRA is small and loads everywhere. DoRA learns direction and size apart: finer, slower. LoHa and LoKr are LyCORIS kinds for styles and large sets; (IA)3 is the smallest; OFT and BOFT turn weights without stretching them; GLoRA is experimental."""  # noqa: E501
    rank: int = Field(8, ge=1, le=256)
    """Size of the adapter (dim). Higher holds more detail, makes a larger file and learns the training pictures
    by heart sooner. For OFT and BOFT it is the size of a block (the nearest that divides the layer); (IA)3 has none."""
    alpha: float = Field(4.0, gt=0, le=512)
    """Strength of what is learned: the adapter is scaled by alpha / rank. Half the rank is a good start; twice
    the alpha acts like twice the learning rate. OFT, BOFT and (IA)3 have none."""
    conv_rank: int = only("layers=all", default=0, ge=0, le=256)
    """Rank of 3x3 convolutions where `layers` is all (LoCon). 0 takes the rank above."""
    conv_alpha: float = only("layers=all", default=0.0, ge=0, le=512)
    """Alpha of those convolutions. 0 keeps alpha / rank as above."""
    rs_lora: bool = only("kind=lora|dora|loha|lokr", default=False)
    """Scale by alpha / root of rank (rsLoRA), so that high ranks learn as strongly as low ones. The file's alpha is
    written so that every program reads it right."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of the adapter's input that is switched off at random in each step. A little (0.1) works against learning
    by heart."""
    rank_dropout: float = Field(0.0, ge=0, lt=1)
    """Share of the ranks (LoRA, DoRA) or of what comes out of a layer (the other kinds) that is switched off at random
    in each step, each picture its own."""
    module_dropout: float = Field(0.0, ge=0, lt=1)
    """Chance for each whole layer of the adapter to be left out of a step."""
    layers: Literal["attention", "attention+ff", "all"] = "attention+ff"
    """Which layers learn: attention only (small, gentle), with the feed-forward layers (the usual LoRA), or all
    with the convolutions (LoCon: styles and fine detail, larger file)."""
    include: tuple[str, ...] = ()
    """Only layers whose name holds one of these regular expressions, e.g. up_blocks. Names begin with unet.,
    text_encoder. or text_encoder_2. Empty takes all."""
    exclude: tuple[str, ...] = ()
    """Leave out layers whose name holds one of these regular expressions, e.g. mid_block."""
    ranks: tuple[str, ...] = ()
    """Own ranks by layer, REGEX=RANK, the first that fits counts: down_blocks=4, mid_block=16, attn2=0. 0 leaves the
    layer out. alpha / rank stays as it is."""
    init: Literal["default", "pissa", "olora", "loftq"] = only("kind=lora", default="default")
    """How a LoRA begins: from nothing (default), from the base's strongest directions (PiSSA) or its QR parts (OLoRA),
    which learn faster, or mending a quantised base (LoftQ). The file is an ordinary LoRA of up to twice the rank."""
    factor: int = only("kind=lokr", default=-1, ge=-1, le=256)
    """LoKr only: how a layer is split. -1 splits evenly (smallest file); 8 or 16 hold more."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Number format of the trained weights. bf16 halves their memory and is rounded by chance, so that small steps
    are not lost; fp32 is exact."""
    continue_from: str = ""
    """LoRA file of the same kind and size to go on from. Empty begins anew."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        problems = []
        for name in ("include", "exclude"):
            for pattern in getattr(self, name):
                try:
                    re.compile(pattern)
                except re.error as error:
                    problems.append(f"adapter.{name}: {pattern!r} is no regular expression ({error})")
        try:
            pairs(self.ranks, "adapter.ranks")
        except ValueError as error:
            problems.append(str(error))
        if self.init != "default" and self.kind != "lora":
            problems.append(f"adapter.init: {self.init} is for kind lora; choose default for {self.kind}")
        if self.init != "default" and self.continue_from:
            problems.append("adapter.init: a LoRA that is continued has its weights already; choose default")
        if self.rs_lora and self.kind not in ("lora", "dora", "loha", "lokr"):
            problems.append(f"adapter.rs_lora: {self.kind} has no rank to scale by; turn it off")
        if self.kind == "ia3" and (self.dropout or self.rank_dropout):
            problems.append("adapter.dropout: (IA)3 has no dropout of input or rank; set both to 0")
        if problems:
            raise ValueError("; ".join(problems))
        return self
