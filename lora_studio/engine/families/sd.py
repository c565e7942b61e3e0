"""Stable Diffusion 1.x and all of its build, at any size, from a diffusers model folder."""

from pathlib import Path
from typing import Any, Self

from lora_studio import torchvision_ops  # noqa: F401  isort: skip
import diffusers
import torch
import transformers
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from lora_studio.core.errors import UserError
from lora_studio.core.files import sha256_file

diffusers.utils.logging.disable_progress_bar()
transformers.utils.logging.disable_progress_bar()

SAMPLERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {"clip_sample": False}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "solver_order": 2}),
    "unipc": ("UniPCMultistepScheduler", {}),
}
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
TEXT_ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")
RESNET = ("conv1", "conv2", "time_emb_proj", "conv_shortcut")


class StableDiffusion:
    """The family's one class; see Family for what each name promises."""

    def __init__(self, path: Path, device: torch.device, dtype: torch.dtype) -> None:
        self.path, self.device, self.dtype = path, device, dtype
        self.tokenizer = CLIPTokenizer.from_pretrained(path / "tokenizer", local_files_only=True)
        self.scheduler = DDPMScheduler.from_pretrained(path / "scheduler", local_files_only=True)
        self.alphas_cumprod = self.scheduler.alphas_cumprod.to(device)
        self.prediction_type: str = self.scheduler.config.prediction_type
        self._parts: dict[str, Any] = {}

    @classmethod
    def load(cls, path: Path, device: torch.device, dtype: torch.dtype) -> Self:
        try:
            return cls(path, device, dtype)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"The base model {path.name} cannot be opened: {error}.", "Choose another base.") from error

    # --- parts -----------------------------------------------------------------------------------------------------

    def _part(self, name: str) -> Any:
        if name not in self._parts:
            classes = {"unet": UNet2DConditionModel, "text_encoder": CLIPTextModel, "vae": AutoencoderKL}
            # Small VAEs lose colours in half precision, and encoding happens once: keep it in fp32.
            dtype = torch.float32 if name == "vae" else self.dtype
            part = classes[name].from_pretrained(self.path / name, torch_dtype=dtype, local_files_only=True)
            self._parts[name] = part.requires_grad_(False).eval().to(self.device)
        return self._parts[name]

    def release(self, part: str) -> None:
        self._parts.pop(part, None)

    @property
    def network(self) -> nn.Module:
        return self._part("unet")

    @property
    def text_network(self) -> nn.Module:
        return self._part("text_encoder")

    @property
    def text_network_loaded(self) -> bool:
        return "text_encoder" in self._parts

    def identity(self, part: str) -> str:
        return "-".join(sha256_file(path) for path in sorted((self.path / part).glob("*.safetensors")))

    # --- encoding --------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def encode_images(self, pixels: Tensor) -> Tensor:
        vae = self._part("vae").to(torch.float32)
        latents = vae.encode(pixels.to(self.device, vae.dtype)).latent_dist.mode()
        return (latents - (vae.config.shift_factor or 0)) * vae.config.scaling_factor

    def _tokens(self, captions: list[str]) -> Tensor:
        batch = self.tokenizer(
            captions,
            padding="max_length",
            truncation=True,
            max_length=self.tokenizer.model_max_length,
            return_tensors="pt",
        )
        return batch.input_ids

    def encode_text(self, captions: list[str], clip_skip: int) -> Tensor:
        encoder = self.text_network
        tokens = self._tokens(captions).to(self.device)
        if clip_skip == 1:
            return encoder(tokens).last_hidden_state
        states = encoder(tokens, output_hidden_states=True).hidden_states
        if clip_skip >= len(states):
            raise UserError(
                f"run.clip_skip {clip_skip} is more than this text encoder has layers ({len(states) - 1}).",
                "Lower run.clip_skip.",
            )
        # transformers 5 has the layers directly in CLIPTextModel, older ones in its text_model
        norm = getattr(encoder, "text_model", encoder).final_layer_norm
        return norm(states[-clip_skip])

    def count_cut_off(self, captions: list[str]) -> int:
        ids = self.tokenizer(captions).input_ids if captions else []
        return sum(len(tokens) > self.tokenizer.model_max_length for tokens in ids)

    # --- objective -------------------------------------------------------------------------------------------------

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        signal, sigma = self._signal(timesteps)
        return signal * latents + sigma * noise

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        if self.prediction_type == "epsilon":
            return noise
        if self.prediction_type == "v_prediction":
            signal, sigma = self._signal(timesteps)
            return signal * noise - sigma * latents
        if self.prediction_type == "sample":
            return latents
        raise UserError(
            f"The base's scheduler says prediction_type {self.prediction_type}, which is not known here.",
            "Use a base with epsilon or v_prediction.",
        )

    def _signal(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """Shares of picture and noise at timesteps (B,), each (B, 1, 1, 1)."""
        kept = self.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        return kept.sqrt(), (1 - kept).sqrt()

    def draw_timesteps(self, count: int, generator: torch.Generator) -> Tensor:
        return torch.randint(0, len(self.alphas_cumprod), (count,), generator=generator).to(self.device)

    def fixed_timesteps(self, count: int) -> Tensor:
        total = len(self.alphas_cumprod)
        return ((torch.arange(count) + 0.5) * total / count).long().to(self.device)

    def snr_weights(self, timesteps: Tensor, gamma: float) -> Tensor:
        """Min-SNR (Hang et al. 2023): min(snr, gamma) / snr for epsilon, / (snr + 1) for v, min(...) for the sample."""
        kept = self.alphas_cumprod[timesteps]
        if gamma == 0:
            return torch.ones_like(kept)
        if self.prediction_type == "epsilon":  # min(snr, gamma) / snr, written so that snr 0 gives 1
            return torch.clamp(gamma * (1 - kept) / kept, max=1.0)
        snr = kept / (1 - kept)
        capped = snr.clamp(max=gamma)
        return capped if self.prediction_type == "sample" else capped / (snr + 1)

    def predict(self, noisy: Tensor, timesteps: Tensor, text_states: Tensor) -> Tensor:
        return self.network(noisy, timesteps, text_states, return_dict=False)[0]

    # --- drawing ---------------------------------------------------------------------------------------------------

    def pipeline(self, sampler: str) -> Any:
        pipeline = diffusers.StableDiffusionPipeline(
            vae=self._part("vae").to(self.dtype),  # the pipeline hands it latents of the UNet's format
            text_encoder=self._part("text_encoder"),
            tokenizer=self.tokenizer,
            unet=self._part("unet"),
            scheduler=self.sampler(sampler),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def sampler(self, name: str) -> Any:
        """The named sampler with the base's own noise schedule; zero-SNR bases need trailing timesteps."""
        class_name, changes = SAMPLERS[name]
        changes = {**changes, "steps_offset": 1}  # what the pipeline itself insists on
        config = {key: value for key, value in self.scheduler.config.items() if not key.startswith("_")}
        if config.get("rescale_betas_zero_snr"):
            changes = {**changes, "timestep_spacing": "trailing"}
        return getattr(diffusers, class_name).from_config({**config, **changes})

    # --- adapter ---------------------------------------------------------------------------------------------------

    def adapter_layers(self, layers: str, parts: list[str]) -> dict[str, list[str]]:
        finders = {"unet": unet_layers, "text_encoder": text_layers}
        return {part: finders[part](self._part(part), layers) for part in parts}

    def key_name(self, part: str, module: str) -> str:
        return key_name(part, module)

    def metadata(self) -> dict[str, str]:
        velocity = self.prediction_type == "v_prediction"
        return {
            "ss_base_model_version": "sd_v1_v" if velocity else "sd_v1",
            "ss_v2": "False",
            "ss_zero_terminal_snr": str(bool(self.scheduler.config.get("rescale_betas_zero_snr"))),
            "ss_sd_model_name": self.path.name,
            "ss_max_token_length": str(self.tokenizer.model_max_length - 2),
            "modelspec.architecture": "stable-diffusion-v1/lora",
            "modelspec.implementation": "diffusers",
            "modelspec.prediction_type": "v" if velocity else "epsilon",
        }


def unet_layers(unet: nn.Module, layers: str) -> list[str]:
    """Names of the UNet's modules for adapter.layers: those that sd-scripts adapts by default are `attention+ff`."""
    found = []
    for name, module in unet.named_modules():
        kind = type(module).__name__
        wanted: tuple[str, ...] = ()
        if kind == "Attention":
            wanted = ATTENTION
        elif kind == "FeedForward" and layers != "attention":
            wanted = ("net.0.proj", "net.2")
        elif kind == "Transformer2DModel" and layers != "attention":
            wanted = ("proj_in", "proj_out")
        elif kind == "ResnetBlock2D" and layers == "all":
            wanted = RESNET
        elif kind in ("Downsample2D", "Upsample2D") and layers == "all":
            wanted = ("conv",)
        inner = dict(module.named_modules())
        found += [f"{name}.{part}" for part in wanted if isinstance(inner.get(part), (nn.Linear, nn.Conv2d))]
    return found


def text_layers(encoder: nn.Module, layers: str) -> list[str]:
    """Names of the text encoder's modules for adapter.layers."""
    wanted = TEXT_ATTENTION if layers == "attention" else (*TEXT_ATTENTION, "fc1", "fc2")
    return [name for name, module in encoder.named_modules() if isinstance(module, nn.Linear) and name.endswith(wanted)]


def key_name(part: str, module: str) -> str:
    """Kohya's name of a module: `lora_unet_...`, and `lora_te_text_model_...` whichever transformers wrote it."""
    if part == "unet":
        return "lora_unet_" + module.replace(".", "_")
    return "lora_te_text_model_" + module.removeprefix("text_model.").replace(".", "_")
