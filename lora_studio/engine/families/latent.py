"""What all families have in common whose UNet takes the noise off latents of an AutoencoderKL, by a DDPM schedule."""

import inspect
from pathlib import Path
from typing import Any, ClassVar, Self

from lora_studio import torchvision_ops  # noqa: F401  isort: skip
import diffusers
import torch
from diffusers import DDPMScheduler
from torch import Tensor

from lora_studio.core.errors import UserError
from lora_studio.engine import prompts as words
from lora_studio.engine.config import BaseConfig, ObjectiveConfig
from lora_studio.engine.families.base import AS_IT_SAYS, Text
from lora_studio.engine.families.layers import text_layers, unet_layers
from lora_studio.engine.families.parts import (
    SD_SCALING,
    load_part,
    load_scheduler_config,
    load_tokenizer,
    part_identity,
)
from lora_studio.engine.keys import kohya_name
from lora_studio.engine.objective import draw_timesteps

SAMPLERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {"clip_sample": False}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "solver_order": 2}),
    "dpmpp_2m_karras": (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "dpmsolver++", "solver_order": 2, "use_karras_sigmas": True},
    ),
    "unipc": ("UniPCMultistepScheduler", {}),
    "lcm": ("LCMScheduler", {"clip_sample": False}),
}
OTHER_SCHEDULES = ("FlowMatch", "EDM")  # starts of class names: their noise is no DDPM schedule
PREDICTIONS = ("epsilon", "v_prediction", "sample")


class LatentFamily:
    """See Family for what each name promises. A family adds its text encoders, its prediction and its names."""

    keys: ClassVar[str]
    """The name by which keys.py knows the family's LoRA files."""
    in_main_memory: tuple[str, ...] = ()
    text_parts: tuple[str, ...]
    scaling: ClassVar[float] = SD_SCALING
    """Of the latents, where a file of weights does not say."""

    def __init__(self, path: Path, device: torch.device, dtype: torch.dtype, config: BaseConfig) -> None:
        self.path, self.device, self.dtype, self.config = path, device, dtype, config
        self.tokenizers = [load_tokenizer(path, part.replace("text_encoder", "tokenizer")) for part in self.text_parts]
        self.scheduler = DDPMScheduler.from_config(schedule_config(load_scheduler_config(path), config))
        self.alphas_cumprod: Tensor = self.scheduler.alphas_cumprod.to(device)
        self.prediction_type: str = self.scheduler.config.prediction_type
        self._parts: dict[str, Any] = {}

    @classmethod
    def load(cls, path: Path, device: torch.device, dtype: torch.dtype, config: BaseConfig = AS_IT_SAYS) -> Self:
        try:
            return cls(path, device, dtype, config)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"The base model {path.name} cannot be opened: {error}.", "Choose another base.") from error

    # --- parts -----------------------------------------------------------------------------------------------------

    def part(self, name: str) -> Any:
        if name not in self._parts:
            # Small VAEs lose colours and large ones overflow in half precision, and they work once a picture: fp32.
            dtype = torch.float32 if name == "vae" else self.dtype
            part = load_part(self.path, name, dtype, self.config.vae, self.scaling)
            device = torch.device("cpu") if name in self.in_main_memory else self.device
            self._parts[name] = part.requires_grad_(False).eval().to(device)
        return self._parts[name]

    def loaded(self, name: str) -> bool:
        return name in self._parts

    def release(self, name: str) -> None:
        self._parts.pop(name, None)

    def identity(self, name: str) -> str:
        names = self.text_parts if name == "text" else (name,)
        return "-".join(part_identity(self.path, part, self.config.vae, self.scaling) for part in names)

    # --- encoding --------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def encode_images(self, pixels: Tensor) -> Tensor:
        vae = self.part("vae")
        latents = vae.encode(pixels.to(self.device, vae.dtype)).latent_dist.mode()
        return (latents - (vae.config.shift_factor or 0)) * vae.config.scaling_factor

    @torch.no_grad()
    def decode_images(self, latents: Tensor) -> Tensor:
        vae = self.part("vae")
        plain = latents.to(self.device, vae.dtype) / vae.config.scaling_factor + (vae.config.shift_factor or 0)
        return vae.decode(plain, return_dict=False)[0]

    def num_tokens(self, captions: list[str], weighted: bool = False) -> list[int]:
        every = [words.tokenize(tokenizer, captions, weighted) for tokenizer in self.tokenizers]
        return [max(map(len, found)) for found in zip(*every, strict=True)]

    def encode_text(self, captions: list[str], clip_skip: int, chunks: int = 1, weighted: bool = False) -> Text:
        raise NotImplementedError

    def _encode_part(
        self, index: int, captions: list[str], chunks: int, weighted: bool, depth: int, norm: bool
    ) -> tuple[Tensor, Any]:
        """States (B, chunks * 77, width) of one text encoder, `depth` layers from the end, and its whole answer.

        Depth 0 is what the encoder itself gives: the last layer with its norm. `norm` puts that norm on others too.
        """
        encoder = self.part(self.text_parts[index])
        ids, weights = words.token_rows(self.tokenizers[index], captions, chunks, weighted)
        answer = encoder(ids.to(self.device), output_hidden_states=depth > 0)
        if depth == 0:
            states = answer.last_hidden_state
        else:
            layers = answer.hidden_states  # the embeddings, then what each layer gave
            if depth >= len(layers) - 1:
                raise UserError(
                    f"run.clip_skip {depth + norm} is more than this text encoder has layers ({len(layers) - 1}).",
                    "Lower run.clip_skip.",
                )
            states = layers[-1 - depth]
            if norm:  # transformers 5 has the layers directly in CLIPTextModel, older ones in its text_model
                states = getattr(encoder, "text_model", encoder).final_layer_norm(states)
        states = words.apply_weights(states, weights.to(self.device))
        return states.reshape(len(captions), -1, states.shape[-1]), answer

    # --- objective -------------------------------------------------------------------------------------------------

    def draw_timesteps(self, count: int, config: ObjectiveConfig, generator: torch.Generator) -> Tensor:
        return draw_timesteps(count, len(self.alphas_cumprod), config, generator).to(self.device)

    def fixed_timesteps(self, count: int) -> Tensor:
        total = len(self.alphas_cumprod)
        return ((torch.arange(count) + 0.5) * total / count).long().to(self.device)

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        signal, sigma = self._signal(timesteps)
        return signal * latents + sigma * noise

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        if self.prediction_type == "epsilon":
            return noise
        if self.prediction_type == "v_prediction":
            signal, sigma = self._signal(timesteps)
            return signal * noise - sigma * latents
        return latents

    def _signal(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """Shares of picture and noise at timesteps (B,), each (B, 1, 1, 1)."""
        kept = self.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        return kept.sqrt(), (1 - kept).sqrt()

    # --- drawing ---------------------------------------------------------------------------------------------------

    def sampler(self, name: str) -> Any:
        """The named sampler with the base's own noise schedule; zero-SNR bases need trailing timesteps."""
        class_name, changes = SAMPLERS[name]
        kind = getattr(diffusers, class_name)
        config = {**self.scheduler.config, "steps_offset": 1, **changes}  # the offset: the pipeline insists on it
        if config.get("rescale_betas_zero_snr"):
            config["timestep_spacing"] = "trailing"
        known = inspect.signature(kind).parameters
        return kind(**{key: value for key, value in config.items() if key in known})

    @torch.no_grad()
    def conditions(self, prompts: list[str], negative: str, clip_skip: int) -> dict[str, Any]:
        chunks = words.chunks_for(max(self.num_tokens([*prompts, negative], weighted=True)))
        wanted = self.encode_text(prompts, clip_skip, chunks, weighted=True)
        unwanted = self.encode_text([negative], clip_skip, chunks, weighted=True)[[0] * len(prompts)]
        found = {"prompt_embeds": wanted.states, "negative_prompt_embeds": unwanted.states}
        if wanted.pooled is not None:
            found |= {"pooled_prompt_embeds": wanted.pooled, "negative_pooled_prompt_embeds": unwanted.pooled}
        return found

    # --- names -----------------------------------------------------------------------------------------------------

    def adapter_layers(self, layers: str, parts: list[str]) -> dict[str, list[str]]:
        return {name: (unet_layers if name == "unet" else text_layers)(self.part(name), layers) for name in parts}

    def key_name(self, part: str, module: str) -> str:
        return kohya_name(self.keys, part, module)

    def metadata(self) -> dict[str, str]:
        return {
            "ss_v2": "False",
            "ss_zero_terminal_snr": str(bool(self.scheduler.config.get("rescale_betas_zero_snr"))),
            "ss_sd_model_name": self.path.name,
            "ss_max_token_length": str(words.CHUNK),
            "modelspec.implementation": "diffusers",
            "modelspec.prediction_type": "v" if self.prediction_type == "v_prediction" else self.prediction_type,
        }


def schedule_config(found: dict[str, Any], config: BaseConfig) -> dict[str, Any]:
    """The base's scheduler config, with what the settings say in place of what it says.

    Zero terminal SNR (Lin et al. 2023, algorithm 1) is diffusers' rescale_betas_zero_snr. Raises UserError for
    schedules of another nature.
    """
    name = str(found.get("_class_name", ""))
    if name.startswith(OTHER_SCHEDULES):
        raise UserError(f"The base's noise schedule ({name}) is not known here.", "Choose another base (base.model).")
    changed = dict(found)
    if config.prediction != "auto":
        changed["prediction_type"] = config.prediction
    if config.zero_terminal_snr != "auto":
        changed["rescale_betas_zero_snr"] = config.zero_terminal_snr == "yes"
    prediction = changed.get("prediction_type", "epsilon")
    if prediction not in PREDICTIONS:
        raise UserError(
            f"The base's scheduler says prediction_type {prediction}, which is not known here.",
            "Say what it predicts (base.prediction), or choose another base.",
        )
    return changed
