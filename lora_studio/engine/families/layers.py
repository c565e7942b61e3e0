"""Which modules of a UNet and of a CLIP text encoder an adapter takes, by the setting adapter.layers."""

from torch import nn

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
TEXT_ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")
RESNET = ("conv1", "conv2", "time_emb_proj", "conv_shortcut")


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
        inner = dict(module.named_modules()) if wanted else {}
        found += [f"{name}.{part}" for part in wanted if isinstance(inner.get(part), (nn.Linear, nn.Conv2d))]
    return found


def text_layers(encoder: nn.Module, layers: str) -> list[str]:
    """Names of the text encoder's modules for adapter.layers."""
    wanted = TEXT_ATTENTION if layers == "attention" else (*TEXT_ATTENTION, "fc1", "fc2")
    return [name for name, module in encoder.named_modules() if isinstance(module, nn.Linear) and name.endswith(wanted)]
