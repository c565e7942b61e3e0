"""Tiny real networks that stand in for a family where only its layers and their names matter."""

from lora_studio import torchvision_ops  # noqa: F401  isort: skip
import torch
from diffusers import UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from lora_studio.engine.families.layers import text_layers, unet_layers
from lora_studio.engine.keys import kohya_name


def tiny_unet(xl: bool) -> UNet2DConditionModel:
    """Two layers a block, as the big ones; SDXL's is told picture sizes."""
    common = {
        "sample_size": 8, "layers_per_block": 2, "norm_num_groups": 8, "cross_attention_dim": 64 if xl else 32,
    }  # fmt: skip
    if not xl:
        return UNet2DConditionModel(
            block_out_channels=(16, 32),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            attention_head_dim=2,
            **common,
        )
    return UNet2DConditionModel(
        block_out_channels=(16, 32, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=2,
        transformer_layers_per_block=(1, 1, 2),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=32 + 6 * 8,
        **common,
    )


def tiny_text(kind: type[nn.Module] = CLIPTextModel) -> nn.Module:
    config = CLIPTextConfig(
        vocab_size=100, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        projection_dim=32, max_position_embeddings=16, bos_token_id=98, eos_token_id=99,
    )  # fmt: skip
    return kind(config)


class TinyFamily:
    """SD or SDXL with layers of 16 to 64 numbers; weights from a seed."""

    def __init__(self, name: str = "sd", seed: int = 0, dtype: torch.dtype = torch.float32) -> None:
        self.name, self.dtype = name, dtype
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.parts: dict[str, nn.Module] = {"unet": tiny_unet(name == "sdxl"), "text_encoder": tiny_text()}
            if name == "sdxl":
                self.parts["text_encoder_2"] = tiny_text(CLIPTextModelWithProjection)
        for part in self.parts.values():
            part.requires_grad_(False).eval()
            if dtype != torch.float32:
                part.to(dtype)
        self.text_parts = tuple(part for part in self.parts if part != "unet")

    def part(self, name: str) -> nn.Module:
        return self.parts[name]

    def adapter_layers(self, layers: str, parts: list[str]) -> dict[str, list[str]]:
        return {part: (unet_layers if part == "unet" else text_layers)(self.parts[part], layers) for part in parts}

    def key_name(self, part: str, module: str) -> str:
        return kohya_name(self.name, part, module)

    def answer(self, seed: int = 5) -> torch.Tensor:
        """All that the networks say to one input, as one row."""
        generator = torch.Generator().manual_seed(seed)
        tokens = torch.randint(0, 97, (2, 9), generator=generator)
        text = [self.parts[part](tokens).last_hidden_state for part in self.text_parts]
        told = {"text_embeds": text[-1][:, -1], "time_ids": torch.arange(12).view(2, 6)} if len(text) == 2 else None
        latents = torch.randn(2, 4, 8, 8, generator=generator).to(self.dtype)
        unet = self.parts["unet"]
        answer = unet(latents, torch.tensor([10, 700]), torch.cat(text, dim=-1), added_cond_kwargs=told).sample
        return torch.cat([answer.flatten(), *[states.flatten() for states in text]])
