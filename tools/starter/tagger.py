"""Trains the tagger: a small open_clip CLIP with a tag head, and writes it in the studio's format.

    python -m tools.starter.tagger          # trains, calibrates, measures, writes the folder

The image tower learns from three things: which tags a picture has (head), which tag words belong to it, and which
caption of the batch is its own. The last two make zero-shot words and image-text likeness work.
"""

import json
import os
import random
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from .common import Muon, set_rate, start
from .config import ASSETS, CONFIG, WORK
from .data import Attributes, load, tags_of, vocabulary
from .vae import to_tensor

CONTEXT = 48


def model_cfg(vocab_size: int) -> dict[str, Any]:
    """What open_clip.CLIP is built from."""
    return {
        "embed_dim": CONFIG.tagger_dim,
        "vision_cfg": {"image_size": 64, "patch_size": 8, "layers": CONFIG.tagger_layers, "width": CONFIG.tagger_width,
                       "head_width": 32, "pool_type": "avg"},
        "text_cfg": {"context_length": CONTEXT, "vocab_size": vocab_size, "width": 128, "heads": 4, "layers": 2},
    }  # fmt: skip


def build() -> tuple[torch.nn.Module, Any, torch.nn.Linear]:
    """An untrained CLIP, its tokenizer, and the tag head."""
    import open_clip

    words = WORK / "tokenizer/bpe_simple_vocab.txt.gz"
    tokenizer = open_clip.SimpleTokenizer(bpe_path=str(words), context_length=CONTEXT)
    cfg = model_cfg(tokenizer.vocab_size)
    model = open_clip.model.CLIP(**cfg, init_logit_scale=float(np.log(15.0)))
    head = torch.nn.Linear(CONFIG.tagger_dim, len(vocabulary()))
    with torch.no_grad():
        head.weight.mul_(20)  # embeddings have length one: the head has to supply the scale
        head.bias.fill_(-2.0)
    return model, tokenizer, head


def multi_hot(attributes: list[Attributes]) -> torch.Tensor:
    """(N, T) of zeros and ones, tags in vocabulary order."""
    index = {tag: number for number, (tag, _) in enumerate(vocabulary())}
    found = torch.zeros(len(attributes), len(index))
    for row, one in enumerate(attributes):
        for tag in tags_of(one):
            found[row, index[tag]] = 1
    return found


def augment(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Shifts, zooms, blur and noise: what other renderers and a VAE do to a picture. Colours stay."""
    draw = torch.rand(6, generator=generator).tolist()
    side = images.shape[-1]
    zoomed = round(side * (0.92 + 0.16 * draw[0]))
    if zoomed != side:
        images = F.interpolate(images, size=(zoomed, zoomed), mode="bilinear", antialias=True)
    pad = max(0, side - zoomed) + 4
    images = F.pad(images, (pad, pad, pad, pad), mode="replicate")
    top, left = (int(d * (images.shape[-1] - side)) for d in draw[1:3])
    images = images[..., top : top + side, left : left + side]
    if draw[3] < 0.3:
        images = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)
    if draw[4] < 0.5:
        images = images + 0.1 * draw[5] * torch.randn(images.shape, generator=generator)
    return images.clamp(-1, 1)


def train(
    model: torch.nn.Module, tokenizer: Any, head: torch.nn.Linear, images: np.ndarray, attributes: list[Attributes]
) -> None:
    """Until the time is spent."""
    began = start()
    budget = float(os.environ.get("STARTER_SECONDS", CONFIG.tagger_seconds))
    wanted = multi_hot(attributes)
    words = tokenizer([tag for tag, _ in vocabulary()])[:, :16]
    optimizer = Muon([model], 0.02, 2e-3)
    generator, rng = torch.Generator().manual_seed(CONFIG.seed), random.Random(CONFIG.seed)
    tag_bias = torch.nn.Parameter(torch.tensor(-5.0))
    fast = [*head.parameters(), tag_bias]  # their values are large: at the others' rate they would not move
    optimizer.add_param_group({"params": fast, "lr": 0.02, "base_lr": 0.02, "muon": False})
    step = 0
    while (share := (time.monotonic() - began) / budget) < 1:
        set_rate(optimizer, min(1, step / 50, (1 - share) / 0.5))
        chosen = torch.randint(0, len(images), (CONFIG.tagger_batch,), generator=generator)
        batch = augment(to_tensor(images[chosen.numpy()]), generator).to(memory_format=torch.channels_last)
        embedded = F.normalize(model.visual(batch), dim=-1)
        targets = wanted[chosen]
        loss = F.binary_cross_entropy_with_logits(head(embedded), targets) * 10
        scale = model.logit_scale.exp()
        if step % 4:
            likeness = scale * embedded @ encode_text(model, words).T + tag_bias
            loss = loss + 5 * F.binary_cross_entropy_with_logits(likeness, targets)
        else:
            captions = [", ".join(rng.sample(tags, k=max(3, len(tags) - rng.randint(0, 4))))
                        for tags in (tags_of(attributes[i]) for i in chosen.tolist())]  # fmt: skip
            likeness = scale * embedded @ encode_text(model, tokenizer(captions)).T
            own = torch.arange(len(chosen))
            loss = loss + 0.15 * (F.cross_entropy(likeness, own) + F.cross_entropy(likeness.T, own))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([*model.parameters(), *head.parameters()], 1.0)
        optimizer.step()
        step += 1
        if step % 50 == 0:
            print(f"{step} {time.monotonic() - began:.0f}s loss {loss.item():.4f} scale {scale.item():.1f}", flush=True)


def encode_text(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """(B, L) ids, L at most the context -> (B, D) of length one. Short inputs cost less than padded ones."""
    length = ids.shape[1]
    states = model.token_embedding(ids) + model.positional_embedding[:length]
    states = model.transformer(states, attn_mask=model.attn_mask[:length, :length])
    last = model.ln_final(states)[torch.arange(len(ids)), ids.argmax(-1)]
    return F.normalize(last @ model.text_projection, dim=-1)


@torch.no_grad()
def embed(model: torch.nn.Module, images: np.ndarray) -> torch.Tensor:
    """(N, H, W, 3) uint8 -> (N, D) of length one."""
    parts = [F.normalize(model.visual(to_tensor(images[i : i + 100])), dim=-1) for i in range(0, len(images), 100)]
    return torch.cat(parts)


def best_threshold(scores: np.ndarray, truth: np.ndarray) -> float:
    """The threshold of the best F1, half way to the next score, within 0.15..0.85."""
    grid = np.linspace(0.15, 0.85, 71)
    f1 = [f1_score(scores > t, truth) for t in grid]
    best = np.flatnonzero(np.isclose(f1, max(f1)))
    return float(grid[best].mean())


def f1_score(found: np.ndarray, truth: np.ndarray) -> float:
    """F1 of one tag."""
    hits = float((found & truth).sum())
    return 2 * hits / max(1.0, float(found.sum() + truth.sum()))


def average_precision(scores: np.ndarray, truth: np.ndarray) -> float:
    """Area under precision over recall of one tag."""
    ranked = truth[np.argsort(-scores)]
    return float((np.cumsum(ranked) / np.arange(1, len(ranked) + 1))[ranked].mean()) if truth.any() else float("nan")


def measure(scores: np.ndarray, truth: np.ndarray, thresholds: list[float]) -> dict[str, Any]:
    """Macro F1 and mAP in all, F1 by category."""
    tags = vocabulary()
    f1 = [f1_score(scores[:, i] > thresholds[i], truth[:, i]) for i in range(len(tags))]
    ap = [average_precision(scores[:, i], truth[:, i]) for i in range(len(tags))]
    categories = dict.fromkeys(category for _, category in tags)
    by = {name: round(float(np.mean([f1[i] for i, t in enumerate(tags) if t[1] == name])), 3) for name in categories}
    return {"macro F1": round(float(np.mean(f1)), 4), "mAP": round(float(np.nanmean(ap)), 4), "F1 by category": by,
            "worst": sorted((round(f, 3), tag) for f, (tag, _) in zip(f1, tags, strict=True))[:6]}  # fmt: skip


def write(folder: Path, model: torch.nn.Module, head: torch.nn.Linear, thresholds: list[float]) -> None:
    """The tagger's folder, half precision."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    half = {name: p.half().contiguous() if p.is_floating_point() else p for name, p in model.state_dict().items()}
    save_file({name: p for name, p in half.items() if name != "attn_mask"}, folder / "open_clip_model.safetensors")
    save_file({"weight": head.weight.detach().contiguous(), "bias": head.bias.detach().contiguous()},
              folder / "tag_head.safetensors")  # fmt: skip
    preprocess = {"size": [64, 64], "mode": "RGB", "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic",
                  "resize_mode": "squash", "fill_color": 0}  # fmt: skip
    cfg = {"model_cfg": model_cfg(model.token_embedding.num_embeddings), "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(cfg, indent=1))
    tags = [{"name": tag, "category": category, "threshold": round(threshold, 3)}
            for (tag, category), threshold in zip(vocabulary(), thresholds, strict=True)]  # fmt: skip
    (folder / "vocabulary.json").write_text(json.dumps({"tags": tags}, indent=1))
    shutil.copy(WORK / "tokenizer/bpe_simple_vocab.txt.gz", folder)


def read(folder: Path) -> tuple[torch.nn.Module, torch.nn.Linear, list[float]]:
    """The model, head and thresholds of a folder, in single precision."""
    import open_clip
    from safetensors.torch import load_file

    model = open_clip.model.CLIP(**json.loads((folder / "open_clip_config.json").read_text())["model_cfg"])
    half = load_file(folder / "open_clip_model.safetensors")
    model.load_state_dict({name: p.float() if p.is_floating_point() else p for name, p in half.items()}, strict=False)
    state = load_file(folder / "tag_head.safetensors")
    head = torch.nn.Linear(*reversed(state["weight"].shape))
    head.load_state_dict(state)
    tags = json.loads((folder / "vocabulary.json").read_text())["tags"]
    return model.eval(), head, [tag["threshold"] for tag in tags]


def calibrate_and_write(folder: Path, model: torch.nn.Module, head: torch.nn.Linear, tokenizer: Any) -> dict[str, Any]:
    """Thresholds from one half of the held-out images, figures from the other."""
    images, attributes = load("heldout")
    truth = multi_hot(attributes).bool().numpy()
    model.eval()
    embedded = embed(model, images)
    with torch.no_grad():
        scores = head(embedded).sigmoid().numpy()
        words = encode_text(model, tokenizer([tag for tag, _ in vocabulary()]))
        likeness = (embedded @ words.T).numpy()
    half = len(images) // 2
    thresholds = [best_threshold(scores[:half, i], truth[:half, i]) for i in range(truth.shape[1])]
    write(folder, model, head, thresholds)
    result = measure(scores[half:], truth[half:], thresholds)
    result["zero-shot mAP"] = round(float(np.nanmean([average_precision(likeness[:, i], truth[:, i])
                                                      for i in range(truth.shape[1])])), 4)  # fmt: skip
    return result


def main() -> None:
    """Train (or, with the word "untrained", do not), then write."""
    model, tokenizer, head = build()
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters", flush=True)
    untrained = "untrained" in sys.argv[1:]
    folder = WORK / "placeholder/tagger" if untrained else ASSETS / "tagger"
    if not untrained:
        train(model.train(), tokenizer, head, *load("train"))
    result = calibrate_and_write(folder, model, head, tokenizer)
    (WORK / "tagger.json").write_text(json.dumps(result, indent=1))
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
