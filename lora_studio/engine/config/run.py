"""The base, the run on this machine, and the pictures drawn on the way."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from lora_studio.core.settings import Settings

SamplerName = Literal["ddim", "euler", "euler_a", "dpmpp_2m", "dpmpp_2m_karras", "unipc", "lcm"]


def _from_switch(value: Any) -> Any:
    """Settings of the first version had a switch here."""
    return {True: "full", False: "off"}.get(value, value) if isinstance(value, bool) else value


class BaseConfig(Settings):
    """The model that is taught."""

    model: str = Field("starter", min_length=1)
    """The base model: `starter`, a model folder, or a .safetensors file. The LoRA works best on the base it was
    trained on."""
    vae: str = ""
    """A separate VAE, as a .safetensors file or folder; empty takes the base's own."""
    prediction: Literal["auto", "epsilon", "v_prediction"] = "auto"
    """What the base was made to predict. auto reads it from the model where it says so; single files of SD 1.x and XL do not always: choose v_prediction for v-pred bases such as NoobAI v-pred."""  # noqa: E501
    zero_terminal_snr: Literal["auto", "yes", "no"] = "auto"
    """Whether the base was made with zero terminal SNR (usual for v-pred bases). auto reads it from the model."""


class RunConfig(Settings):
    """Length, saving, machine."""

    epochs: int = Field(10, ge=1, le=10_000)
    """How often the whole set is gone through. More learns more, and in the end by heart."""
    seed: int = Field(42, ge=0, le=2**31 - 1)
    """Start of all chance. The same seed and settings give the same LoRA on the same machine."""
    save_every_epochs: int = Field(1, ge=0, le=10_000)
    """Save a LoRA file after every so many epochs, to choose the best later. 0 saves only the last."""
    sample_every_epochs: int = Field(1, ge=0, le=10_000)
    """Draw the sample prompts after every so many epochs. 0 draws none on the way."""
    save_precision: Literal["fp16", "bf16", "fp32"] = "fp16"
    """Number format of the LoRA files: fp16 is what other programs expect; fp32 is exact and twice as large."""
    keep_states: int = Field(2, ge=1, le=20)
    """How many full states are kept on disk to resume from; each is about three times the LoRA file."""
    validation_share: float = Field(0.0, ge=0, le=0.5)
    """Share of the pictures held out to watch for learning by heart. 0 holds out none and watches a fixed few
    of the training pictures."""
    gradient_accumulation: int = Field(1, ge=1, le=256)
    """Batches gathered into one step: acts like a larger batch without its memory, and takes as much longer."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Number format of the frozen base. auto takes bf16 or fp16 where the GPU or CPU computes it faster, else fp32."""
    gradient_checkpointing: Annotated[Literal["off", "selective", "full"], BeforeValidator(_from_switch)] = "off"
    """Saves memory by computing parts twice: of every block (full, about 40 % slower) or of the largest ones only
    (selective, about 15 % slower)."""
    quantize: Literal["none", "fp8", "int8", "nf4"] = "none"
    """Keep the frozen base in fewer bits to save memory. fp8 and int8 work everywhere, nf4 needs bitsandbytes."""
    offload_blocks: int = Field(0, ge=0, le=64)
    """Keep so many blocks of the frozen network in main memory and fetch each just before it is needed: less GPU
    memory, slower. 0 keeps all on the GPU."""
    compile: bool = False
    """Compile the network once for each picture shape: a slow start, then faster steps on a GPU."""
    devices: int = Field(1, ge=0, le=64)
    """GPUs to train on together; each takes its own batch. 0 takes all there are."""
    shard: bool = False
    """Spread the frozen base over the graphics cards: each keeps a part and fetches the rest when it is needed. Less
    memory on each card, slower; what is learned is the same."""
    ema_decay: float = Field(0.0, ge=0, lt=1)
    """Save a moving average of the weights, which is calmer than the last step (0.99 to 0.999). 0 saves the weights
    themselves."""
    cache_gb: float = Field(20.0, gt=0, le=10_000)
    """Most disk the caches of this project may take; the longest unused entries go first."""
    clip_skip: int = Field(1, ge=1, le=11)
    """Which layer from the end of the text part is read: 1 is the last (starter, SD 1.5), 2 is usual for anime
    bases."""


class SampleConfig(Settings):
    """Pictures drawn on the way."""

    prompts: tuple[str, ...] = ()
    """Prompts to draw, one picture each. With none given, the captions of the first pictures are used."""
    negative: str = ""
    """What the pictures should not show."""
    num_steps: int = Field(20, ge=1, le=200)
    """Steps to draw one picture. More is finer and slower; 20 is enough to judge."""
    guidance: float = Field(5.0, ge=0, le=30)
    """How strictly the prompt is followed; 1 or less draws without guidance."""
    width: int = Field(0, ge=0, le=4096, multiple_of=8)
    """Width in pixels; 0 takes the training resolution."""
    height: int = Field(0, ge=0, le=4096, multiple_of=8)
    """Height in pixels; 0 takes the training resolution."""
    seed: int = Field(1, ge=0, le=2**31 - 1)
    """Seed of the first picture; the next ones count on from it. The same over all epochs, so that they can be
    compared."""
    sampler: SamplerName = "ddim"
    """The method that draws."""
