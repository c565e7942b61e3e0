"""Bases in one file (SD 1.x, 2.x, SDXL in the original layout) and VAEs alone, as diffusers' and transformers' classes.

Only the part asked for is read, memory-mapped. What each parameter is made from says `engine.layouts`.
"""

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lora_studio import torchvision_ops  # noqa: F401  isort: skip
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from lora_studio.core.errors import UserError
from lora_studio.engine.headers import HeaderError, prediction, read_header, zero_terminal_snr
from lora_studio.engine.keys import TEXT_LEVEL
from lora_studio.engine.layouts import Layout, LayoutError, Part, Source, read_layout, read_vae
from lora_studio.engine.tokens import check_vocabulary, clip_vocabulary

CLASSES: dict[str, Callable[..., nn.Module]] = {
    "unet": lambda **config: UNet2DConditionModel(**config),
    "vae": lambda **config: AutoencoderKL(**config),
    "text_encoder": lambda **config: CLIPTextModel(CLIPTextConfig(**config)),
    "text_encoder_2": lambda **config: CLIPTextModelWithProjection(CLIPTextConfig(**config)),
}


class SingleFile:
    """A base, or a VAE, in one .safetensors file. Opening it reads the header only."""

    def __init__(self, path: Path, scaling_factor: float | None = None) -> None:
        """`scaling_factor` is that of a VAE alone, which its weights do not tell (0.18215 unless given).

        Raises UserError with the reason when the file is no such model.
        """
        self.path = path
        try:
            shapes, self.metadata = read_header(path)
            is_base = any(key.startswith("model.diffusion_model.") for key in shapes)
            scaling = {} if scaling_factor is None else {"scaling": scaling_factor}
            self.layout: Layout = read_layout(shapes) if is_base else read_vae(shapes, **scaling)
        except (HeaderError, LayoutError, OSError) as error:
            raise UserError(
                f"The model {path.name} cannot be opened: {error}.",
                "Choose another base or VAE, or download the file again.",
            ) from error
        self.family = self.layout.family
        self._keys = frozenset(shapes)

    def part(self, name: str, dtype: torch.dtype) -> nn.Module:
        """A network with its weights in `dtype`, on the CPU. Raises UserError naming a missing or odd key."""
        part = self._find(name)
        try:
            with torch.device("meta"):
                network = CLASSES[name](**part.config)
            wanted = sources(part, network)
        except ValueError as error:  # a size that the published make does not allow, or a layer without a place
            raise UserError(
                f"The {name} of {self.path.name} is of an odd make: {error}.", "Use this model as a folder."
            ) from error
        shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
        state = self._read(part, wanted, shapes, dtype)
        network.load_state_dict(state, assign=True)
        for buffer_name, buffer in list(network.named_buffers()):
            if buffer.is_meta:  # CLIP's positions are counted, not stored
                assert buffer_name.endswith("position_ids"), buffer_name
                owner = network.get_submodule(buffer_name.rpartition(".")[0])
                owner.position_ids = torch.arange(buffer.shape[-1]).expand((1, -1))
        return network.eval()

    def _find(self, name: str) -> Part:
        if name not in self.layout.parts:
            raise UserError(f"{self.path.name} has no {name}.", "Choose a whole base model.")
        return self.layout.parts[name]

    def _read(
        self, part: Part, wanted: Mapping[str, Source], shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype
    ) -> dict[str, Tensor]:
        """Tensors of a part by their names in the class."""
        self._check_names(part, wanted)
        found = {}
        try:
            with safe_open(self.path, framework="pt") as file:
                for name, source in wanted.items():
                    tensor = take(file.get_tensor(part.prefix + source.key), source, shapes[name])
                    if tuple(tensor.shape) != shapes[name]:
                        raise UserError(
                            f"{self.path.name}: {part.prefix}{source.key} has the shape {tuple(tensor.shape)}, "
                            f"which does not fit the rest of the model ({shapes[name]}).",
                            "Choose another base.",
                        )
                    # A copy of its own: computing on the file's memory, aligned by chance, is slower and rounds
                    # differently from one file to the next.
                    found[name] = tensor.to(dtype, copy=True, memory_format=torch.contiguous_format)
        except (SafetensorError, OSError) as error:
            raise UserError(
                f"The model {self.path.name} cannot be read: {error}.", "Check the disk or download the file again."
            ) from error
        return found

    def _check_names(self, part: Part, wanted: Mapping[str, Source]) -> None:
        missing, odd = differences(part, wanted)
        for keys, what in ((missing, "lacks"), (odd, "has, against what is known of such models,")):
            if keys:
                more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
                raise UserError(
                    f"The model {self.path.name} {what} {part.prefix}{keys[0]}{more}.",
                    "Choose another base; the file may be damaged or of a kind that is not supported.",
                )

    def tokenizer(self, name: str = "tokenizer") -> CLIPTokenizer:
        """`tokenizer` or `tokenizer_2` (which fills up with `!`, number 0, as OpenCLIP does).

        Raises UserError when the model has another vocabulary than CLIP's.
        """
        encoder = self._find(name.replace("tokenizer", "text_encoder"))
        check_vocabulary(self.path, encoder)
        return clip_tokenizer("!" if encoder.name == "text_encoder_2" or self.family == "sd2" else "<|endoftext|>")

    def scheduler_config(self) -> dict[str, Any]:
        """The noise schedule as published, with what the file says of its prediction."""
        is_zero = zero_terminal_snr(self._keys, self.metadata)
        return {
            "_class_name": "DDIMScheduler",
            "num_train_timesteps": 1000,
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "beta_schedule": "scaled_linear",
            "prediction_type": prediction(self._keys, self.metadata) or DEFAULT_PREDICTION.get(self.family, "epsilon"),
            "rescale_betas_zero_snr": is_zero,
            "timestep_spacing": "trailing" if is_zero else "leading",
            "clip_sample": False,
            "set_alpha_to_one": False,
            "steps_offset": 1,
        }

    def identity(self, name: str) -> str:
        """SHA-256 of a part's names, shapes and numbers as they lie in the file."""
        part = self._find(name)
        with self.path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
            digest = hashlib.sha256()
            for key in sorted(part.shapes):
                entry = header[part.prefix + key]
                start, end = entry["data_offsets"]
                digest.update(f"{key} {entry['dtype']} {entry['shape']}\n".encode())
                file.seek(8 + length + start)
                for place in range(start, end, CHUNK):
                    digest.update(file.read(min(CHUNK, end - place)))
        return digest.hexdigest()


CHUNK = 2**22
# The larger SD 2.x models (768) predict v, the 512 base epsilon; the weights do not tell which it is.
DEFAULT_PREDICTION = {"sd2": "v_prediction"}


def sources(part: Part, network: nn.Module) -> dict[str, Source]:
    """Every parameter of the class -> where it comes from, in either spelling of transformers."""
    return {name: part.source(name.removeprefix(TEXT_LEVEL)) for name in network.state_dict()}


def differences(part: Part, wanted: Mapping[str, Source]) -> tuple[list[str], list[str]]:
    """Keys that the file lacks, and keys that belong to no parameter."""
    keys = {source.key for source in wanted.values()}
    missing = sorted(keys - set(part.shapes))
    return missing, sorted(key for key in set(part.shapes) - keys if not part.ignored.match(key))


def take(tensor: Tensor, source: Source, shape: tuple[int, ...]) -> Tensor:
    """The piece of a file's tensor that a parameter of `shape` is made from."""
    if source.third is not None:
        rows = tensor.shape[0] // 3
        tensor = tensor[source.third * rows : (source.third + 1) * rows]
    if source.transpose:
        tensor = tensor.T
    if tensor.shape[2:] == (1, 1) and len(shape) == 2:  # the VAE's attention was once written as 1x1 convolutions
        tensor = tensor[:, :, 0, 0]
    return tensor


# --- The tokenizer ----------------------------------------------------------------------------------------------


def clip_tokenizer(pad: str) -> CLIPTokenizer:
    """CLIP's tokenizer; read from files, which every version of transformers understands."""
    vocabulary, merges = clip_vocabulary()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "vocab.json").write_text(json.dumps(vocabulary), "utf-8")
        (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), "utf-8")
        settings = {
            "tokenizer_class": "CLIPTokenizer", "bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>",
            "unk_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "model_max_length": 77,
            "do_lower_case": True, "errors": "replace",
        }  # fmt: skip
        (folder / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")
        tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    tokenizer.pad_token = pad  # set afterwards, or every `!` in a caption would be read as padding
    return tokenizer
