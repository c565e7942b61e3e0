"""Does the base do what the words say? Two measures, written to quality.json in the work folder.

    python -m tools.starter.quality [number of generated pictures]

Caption swap: the loss of held-out pictures under their own caption, none, another's, and with one tag exchanged. A
model that reads its captions is worst where the caption lies most. Tagger: the share of categories in which the
tagger finds in generated pictures what was asked for, beside the same for real held-out pictures.
"""

import json
import random
import sys
from typing import Any

import numpy as np
import torch

from . import tagger, unet
from .common import start
from .config import ASSETS, CONFIG, WORK
from .data import CATEGORIES, Attributes, load, tags_of, vocabulary
from .vae import to_tensor

LEVELS = (999, 800, 500)


def swapped(attributes: Attributes, category: str, rng: random.Random) -> Attributes:
    """The same picture's words with another tag of this category; without it where there is no other."""
    tags = [tag for tag, of in vocabulary() if of == category and tag != attributes.get(category)]
    if not tags:
        return {of: tag for of, tag in attributes.items() if of != category}
    return {**attributes, category: rng.choice(tags)}


@torch.no_grad()
def encode(parts: dict[str, Any], captions: list[list[str]]) -> torch.Tensor:
    """(B, 77, D) text states."""
    ids, _ = parts["captions"].batch(captions, None)
    return parts["text"](ids.to(CONFIG.device)).last_hidden_state


@torch.no_grad()
def caption_swap(model: torch.nn.Module, parts: dict[str, Any], count: int = 192) -> dict[str, list[float]]:
    """Kind of caption -> loss at each of LEVELS; the same noise for all of them."""
    images, attributes = load("heldout")
    latents = parts["vae"].encode(to_tensor(images[:count]).to(CONFIG.device)).latent_dist.mode()
    latents = latents * parts["vae"].config.scaling_factor
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(7)).to(CONFIG.device)
    rng, scheduler = random.Random(7), unet.build_scheduler()
    own = attributes[:count]
    kinds: dict[str, list[list[str]]] = {
        "own": [tags_of(one) for one in own],
        "none": [[] for _ in own],
        "another's": [tags_of(one) for one in own[1:] + own[:1]],
    }
    for category in CATEGORIES:
        having = [category in one for one in own]
        kinds[f"{category} exchanged"] = [
            tags_of(swapped(one, category, rng)) if has else [] for one, has in zip(own, having, strict=True)
        ]
    losses: dict[str, np.ndarray] = {}
    for kind, captions in kinds.items():
        states = encode(parts, captions)
        losses[kind] = np.stack([
            unet.v_loss(model, scheduler, latents, noise, torch.full((count,), t, device=latents.device), states).cpu()
            for t in LEVELS
        ])  # fmt: skip
    result = {kind: losses[kind].mean(1).round(4).tolist() for kind in ("own", "none", "another's")}
    for category in CATEGORIES:
        has = np.array([category in one for one in own])
        rise = losses[f"{category} exchanged"][:, has].mean(1) - losses["own"][:, has].mean(1)
        result[f"{category} exchanged, rise"] = rise.round(4).tolist()
    return result


def category_accuracy(scores: np.ndarray, thresholds: list[float], wanted: list[Attributes]) -> dict[str, float]:
    """Share of pictures whose best tag of each category is the wanted one ("none" wins below the thresholds)."""
    tags = vocabulary()
    result = {}
    for category in CATEGORIES:
        columns = [i for i, (_, of) in enumerate(tags) if of == category]
        margins = scores[:, columns] - np.array(thresholds)[columns]
        optional = category in ("eyewear", "eyes", "marks")
        found = [tags[columns[best]][0] if not optional or row[best] > 0 else None
                 for row, best in zip(margins, scores[:, columns].argmax(1), strict=True)]  # fmt: skip
        rows = [i for i, one in enumerate(wanted) if optional or category in one]
        result[category] = round(float(np.mean([found[i] == wanted[i].get(category) for i in rows])), 3)
    return result


@torch.no_grad()
def generate(model: torch.nn.Module, parts: dict[str, Any], captions: list[list[str]], **how: Any) -> np.ndarray:
    """(N, H, W, 3) uint8 pictures of the captions."""
    empty, made = encode(parts, [[]]), []
    for first in range(0, len(captions), 32):
        states = encode(parts, captions[first : first + 32])
        latents = unet.sample(model, unet.build_scheduler(), states, empty, seed=first, **how)
        made.append(parts["vae"].decode(latents / parts["vae"].config.scaling_factor).sample.clamp(-1, 1))
    return torch.cat(made).add(1).mul(127.5).byte().permute(0, 2, 3, 1).cpu().numpy()


def tagger_check(model: torch.nn.Module, parts: dict[str, Any], count: int, **how: Any) -> dict[str, Any]:
    """Accuracy by category on generated and on real held-out pictures."""
    images, attributes = load("heldout")
    wanted = attributes[500 : 500 + count]  # the half that the tagger's thresholds have not seen
    clip, head, thresholds = tagger.read(ASSETS / "tagger")
    result = {}
    generated = generate(model, parts, [tags_of(one) for one in wanted], **how)
    for name, pictures in (("real", images[500 : 500 + count]), ("generated", generated)):
        with torch.no_grad():
            scores = head(tagger.embed(clip, pictures)).sigmoid().numpy()
        by = category_accuracy(scores, thresholds, wanted)
        result[name] = {**by, "mean": round(float(np.mean(list(by.values()))), 3)}
    return result


def main() -> None:
    """Both measures of the averaged weights."""
    start()
    parts = unet.load_parts()
    state = torch.load(WORK / "unet.pt", weights_only=True)
    model = unet.build().eval()
    model.load_state_dict(state["average"])
    model.to(CONFIG.device)
    result: dict[str, Any] = {"step": state["step"], "caption swap": caption_swap(model, parts)}
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 192
    for guidance in (2.0, 3.0, 5.0):
        result[f"tagger, guidance {guidance}"] = tagger_check(model, parts, count, guidance=guidance)
    (WORK / "quality.json").write_text(json.dumps(result, indent=1))
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
