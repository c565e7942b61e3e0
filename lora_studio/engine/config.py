"""The settings of training and drawing. Each sentence below is what the form, the command line and the docs show."""

from typing import Literal, Self

from pydantic import Field, model_validator

from lora_studio.core.settings import Settings

Sampler = Literal["ddim", "euler", "euler_a", "dpmpp_2m", "unipc"]


class BaseConfig(Settings):
    """The model that is taught."""

    model: str = Field("starter", min_length=1)
    """The base model: `starter`, a model folder, or a .safetensors file. The LoRA works best on the base it was
    trained on."""


class AdapterConfig(Settings):
    """What is trained."""

    kind: Literal["lora"] = "lora"
    """Kind of adapter. A LoRA is small, and every program that draws can load it."""
    rank: int = Field(8, ge=1, le=256)
    """Size of the adapter (dim). Higher holds more detail, makes a larger file and learns the training pictures
    by heart sooner."""
    alpha: float = Field(4.0, gt=0, le=512)
    """Strength of what is learned: the adapter is scaled by alpha / rank. Half the rank is a good start; twice
    the alpha acts like twice the learning rate."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of the adapter that is switched off at random in each step. A little (0.1) works against learning
    by heart."""
    layers: Literal["attention", "attention+ff", "all"] = "attention+ff"
    """Which layers learn: attention only (small, gentle), with the feed-forward layers (the usual LoRA), or all
    with the convolutions (styles and fine detail, larger file)."""


class OptimizerConfig(Settings):
    """How the weights are moved."""

    kind: Literal["adamw"] = "adamw"
    """The method that moves the weights. AdamW is the safe choice."""
    unet_lr: float = Field(5e-4, gt=0, le=0.1)
    """How far each step moves the picture part (UNet). Too high burns the pictures, too low learns nothing."""
    text_encoder_lr: float = Field(1e-4, ge=0, le=0.1)
    """How far each step moves the text part. 0 leaves it untouched, which is usual for styles; a trigger word
    learns better with it."""
    weight_decay: float = Field(0.01, ge=0, le=1)
    """How strongly weights are drawn back to zero. A little keeps the adapter modest."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Memory of AdamW for direction and size of past steps. Rarely needs a change."""
    max_grad_norm: float = Field(1.0, ge=0, le=1000)
    """The longest step allowed: one odd picture cannot throw the training off. 0 sets no limit."""

    @model_validator(mode="after")
    def _betas_below_one(self) -> Self:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas: both must lie in 0 to below 1 (given: {self.betas[0]}, {self.betas[1]})")
        return self


class ScheduleConfig(Settings):
    """How the learning rate changes on the way."""

    kind: Literal["constant", "linear", "cosine", "cosine_with_restarts"] = "cosine_with_restarts"
    """Shape of the learning rate: constant, falling in a line, falling softly (cosine), or falling softly
    several times."""
    restarts: int = Field(3, ge=1, le=100)
    """How many times the rate falls from full to zero; used by cosine_with_restarts only."""
    warmup: float = Field(0.05, ge=0, lt=1)
    """Share of the steps in which the rate climbs from zero, so that the first steps cannot break anything."""


class DataConfig(Settings):
    """What is fed in."""

    resolution: int = Field(512, ge=32, le=4096, multiple_of=8)
    """Side of a square training picture in pixels; other shapes get the same area. Use what the base was made
    for (starter 128, SD 1.5 512)."""
    batch_size: int = Field(2, ge=1, le=256)
    """Pictures looked at in one step. More is steadier and needs more memory."""
    repeats: int = Field(1, ge=1, le=1000)
    """How often each picture comes up in an epoch, on top of its own repeats."""
    bucket_step: int = Field(64, ge=8, le=256, multiple_of=8)
    """Sides of the picture shapes are multiples of this. Smaller crops less and makes more shapes."""
    bucket_min: int = Field(256, ge=8, le=4096, multiple_of=8)
    """Shortest side a picture shape may have. Longer pictures than this allows are cropped."""
    bucket_max: int = Field(1024, ge=32, le=8192, multiple_of=8)
    """Longest side a picture shape may have."""
    no_upscale: bool = False
    """Never enlarge small pictures: they are trained at their own size instead."""
    flip: bool = False
    """Also show each picture mirrored. Leave it off when left and right matter (a scar, a text, hair to one side)."""
    shuffle_tags: bool = True
    """Mix the order of the tags in every step, so that none is tied to its place."""
    keep_tokens: int = Field(1, ge=0, le=50)
    """How many tags at the front stay in place and are never dropped: 1 keeps the trigger word first."""
    caption_dropout: float = Field(0.0, ge=0, le=1)
    """Share of the steps in which a picture is shown without any caption. A little (0.05 to 0.1) helps styles."""
    tag_dropout: float = Field(0.0, ge=0, le=1)
    """Chance for each tag behind the kept ones to be left out. A little makes the LoRA less picky about prompts."""

    @model_validator(mode="after")
    def _buckets_fit(self) -> Self:
        side = f"data.resolution {self.resolution}"
        wrong = {
            "bucket_min": (self.bucket_min > self.resolution, "larger", "lower it or raise the resolution"),
            "bucket_max": (self.bucket_max < self.resolution, "smaller", "raise it or lower the resolution"),
            "bucket_step": (self.bucket_step > self.resolution, "larger", "lower it (64, or 8 for small pictures)"),
        }
        problems = [
            f"data.{name}: {getattr(self, name)} is {how} than {side}; {mend}"
            for name, (is_wrong, how, mend) in wrong.items()
            if is_wrong
        ]
        if problems:
            raise ValueError("; ".join(problems))
        return self


class ObjectiveConfig(Settings):
    """What counts as right."""

    min_snr_gamma: float = Field(5.0, ge=0, le=100)
    """Evens out how much clear and noisy versions of a picture count, which learns faster (5 is usual). 0 turns
    it off."""
    noise_offset: float = Field(0.0, ge=0, le=1)
    """Lets the LoRA learn very dark and very bright pictures (0.05 to 0.1). Not needed for bases made with zero
    terminal SNR."""


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
    keep_states: int = Field(2, ge=1, le=20)
    """How many full states are kept on disk to resume from; each is about three times the LoRA file."""
    validation_share: float = Field(0.0, ge=0, le=0.5)
    """Share of the pictures held out to watch for learning by heart. 0 holds out none and watches a fixed few
    of the training pictures."""
    gradient_accumulation: int = Field(1, ge=1, le=256)
    """Batches gathered into one step: acts like a larger batch without its memory, and takes as much longer."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Number format of the frozen base. auto takes bf16 or fp16 on a GPU that has it, and fp32 on a CPU; the
    LoRA itself is always fp32."""
    gradient_checkpointing: bool = False
    """Saves memory by computing parts twice; about 40 % slower."""
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
    sampler: Sampler = "ddim"
    """The method that draws."""


class TrainConfig(Settings):
    """Everything that shapes a training."""

    base: BaseConfig = BaseConfig()
    adapter: AdapterConfig = AdapterConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    data: DataConfig = DataConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    run: RunConfig = RunConfig()
    sample: SampleConfig = SampleConfig()


class TrainJob(Settings):
    """What the training job is started with: the settings and where things lie."""

    settings: TrainConfig
    base: str
    """Resolved path of the base model."""
    dataset: str
    """Path of dataset.json."""
    cache: str
    """Folder of the shared caches."""
    name: str = Field("lora", pattern=r"^[A-Za-z0-9._-]{1,80}$")
    """Start of the checkpoints' file names."""
    trigger: str = ""
    """The word that calls the LoRA; written into the file."""
    resume: bool = False
    """Go on from the newest whole state in the job's folder."""


class SampleRequest(Settings):
    """One picture to draw."""

    path: str
    """Where the PNG goes, absolute or relative to the job's folder. A file that exists is not drawn again."""
    prompt: str
    """What to draw."""
    lora: str | None = None
    """LoRA file; None draws with the bare base."""
    strength: float = Field(1.0, ge=-5, le=5)
    """How strongly the LoRA acts."""
    negative: str = ""
    seed: int = Field(1, ge=0, le=2**31 - 1)
    width: int = Field(512, ge=32, le=4096, multiple_of=8)
    height: int = Field(512, ge=32, le=4096, multiple_of=8)
    num_steps: int = Field(20, ge=1, le=200)
    guidance: float = Field(5.0, ge=0, le=30)
    sampler: Sampler = "ddim"
    clip_skip: int = Field(1, ge=1, le=11)


class SampleJob(Settings):
    """Pictures to draw with one base and any number of LoRA files."""

    base: str
    """Resolved path of the base model."""
    requests: tuple[SampleRequest, ...]
    batch_size: int = Field(4, ge=1, le=64)
    """Pictures drawn at once where they share all but prompt and seed."""
