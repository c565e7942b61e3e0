"""Loading a tagger by its name: `load` for any kind, `load_model` for one with embeddings of pictures and words."""

from pathlib import Path

from lora_studio.core import hub
from lora_studio.core.errors import UserError
from lora_studio.core.progress import Note
from lora_studio.tagger import models
from lora_studio.tagger.models import WITH_HEAD as FILES
from lora_studio.tagger.scoring import Describer, Floats, Report, Scorer, silent
from lora_studio.tagger.starter import Tagger, load_tagger

__all__ = ["FILES", "Describer", "Floats", "Scorer", "Tagger", "at_hand", "load", "load_model"]


def at_hand(name: str, report: Report = silent) -> Path:
    """The folder of a model, fetched from the hub with visible progress where it is not here yet.

    Raises UserError with the reason when there is no such model, it cannot be used or it cannot be fetched.
    """
    kind = models.kind_of(name)
    if kind == "starter":
        return models.starter()
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if not hub.is_name(name):
        from lora_studio.tagger.zero_shot import repository

        name = repository(name)
    present = models.on_disk(name)
    return present or hub.fetch(name, lambda files: models.wanted(files, name), report)


def load(
    name: str,
    report: Report = silent,
    device: str | None = None,
    half: bool | None = None,
    vocabulary: Path | None = None,
) -> Scorer | Describer:
    """The tagger of that name (see `models`), ready to work; fetched first where it is not here yet.

    `half` is half precision: where None, on a GPU. `vocabulary` is a list of words for models that can be asked about
    any: a text file with one a line, or a WD list; the studio's own where None. Raises UserError naming what is wrong.
    """
    folder = at_hand(name, report)
    kind = models.folder_kind(folder)
    if vocabulary is not None and kind != "zero_shot":
        report(Note(f"{name} has tags of its own; the list {vocabulary.name} is not used.", "warning"))
    if kind == "captioner":
        from lora_studio.tagger import captioners

        return captioners.load(folder, report, device, half)
    if kind == "zero_shot":
        from lora_studio.tagger import zero_shot

        return zero_shot.load_scorer(folder, vocabulary, report, device, half)
    if kind == "wd":
        from lora_studio.tagger import wd

        return wd.load_scorer(folder, device, half)
    if kind == "onnx":
        from lora_studio.tagger import onnx

        return onnx.load_scorer(folder)
    return load_tagger(folder, device, half)


def load_model(name: str = "starter", device: str | None = None) -> Tagger:
    """A tagger with embeddings of pictures and words: `starter`, or a model of open_clip, with a tag head or compared
    with the studio's words. In full precision, as embeddings of one picture must not depend on the machine. Nothing is
    fetched. Raises UserError naming the file that is missing or wrong, and the way out.
    """
    folder = models.on_disk(name) or Path(name).expanduser()
    if not folder.is_dir():
        raise UserError(f"There is no tagger at {name}.", "Choose starter, or a folder with an open_clip model.")
    kind = models.folder_kind(folder)
    if kind == "zero_shot":
        from lora_studio.tagger import zero_shot

        return zero_shot.load_scorer(folder, device=device, half=False)
    if kind != "open_clip":
        raise UserError(
            f"The model at {folder} cannot compare pictures with words.", "Choose starter, or an open_clip model."
        )
    return load_tagger(folder, device, half=False)
