"""What the captions of a project say, what is wrong with them, what the LoRA will absorb; pictures in use count."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from lora_studio.core import captions
from lora_studio.core.errors import UserError
from lora_studio.core.looks import Looks
from lora_studio.core.project import Project
from lora_studio.judge import absorb, tags
from lora_studio.judge import lint as judge_lint
from lora_studio.judge.absorb import Absorbed, Answers
from lora_studio.judge.lint import KINDS, Problem
from lora_studio.judge.lint_text import lint_prose
from lora_studio.judge.tags import Row
from lora_studio.steps import caption_edits, captioning, looking, tokens, training, vocabulary
from lora_studio.steps.caption_edits import CaptionEdit
from lora_studio.steps.captioning import Diff

HEAT = 40
"""Tags of the co-occurrence map."""


def table(project: Project) -> list[Row]:
    """Every tag with count, share, category and how often the trigger stands beside it."""
    plan = project.plan
    return tags.table(_captions(project), plan.trigger, vocabulary.categories(plan))


def charts(project: Project) -> dict[str, Any]:
    """`{"pictures", "tags": [[tag, count, category]], "categories": [{"category", "tags", "uses", "pictures", "share",
    "examples"}], "together": {"names", "counts": (N, N)}}`, the most frequent first."""
    texts, plan = _captions(project), project.plan
    category = vocabulary.categories(plan)
    rows = tags.table(texts, plan.trigger, category)
    names, counts = tags.together(texts, HEAT)
    return {
        "pictures": len(texts),
        "tags": [[row.tag, row.count, row.category] for row in rows],
        "categories": [vars(one) for one in tags.balance(texts, category)],
        "together": {"names": names, "counts": counts.tolist()},
    }


def lint(project: Project) -> list[Problem]:
    """What is wrong with the captions, the gravest first; tags and sentences each as the plan wants them."""
    plan, images = project.plan, project.used_images()
    names = {image.id: image.name for image in images}
    lengths, limits = _tokens(project)
    found: list[Problem] = []
    if plan.captions != "prose":
        texts = {image.id: image.caption for image in images}
        known = [*vocabulary.tagger_words(plan), *(word.casefold() for word in plan.defining)]
        found += judge_lint.lint(
            texts,
            plan.trigger,
            names=names,
            scores=_scores(project),
            tokens=lengths,
            limits=limits,
            known=known,
            words=vocabulary.english(),
        )
    if plan.captions != "tags":
        prose, alone = {image.id: image.prose for image in images}, plan.captions == "prose"
        beside = {"tokens": lengths, "limits": limits} if alone else {}
        found += lint_prose(prose, plan.trigger, alone=alone, names=names, **beside)
    return found


def absorbed(project: Project) -> Absorbed:
    """Tags to prune or keep, and tags that are learned as one thing. Nothing for captions in sentences."""
    plan = project.plan
    if plan.captions == "prose":
        return Absorbed((), ())
    answers = Answers(plan.trigger, plan.defining, plan.varies, plan.avoid, plan.prune_tags)
    return absorb.absorbed(_captions(project), plan.kind, answers, vocabulary.categories(plan))


def fix(project: Project, kind: str) -> Diff:
    """What becomes of the captions when all problems of this kind are mended; `captioning.write` does it.

    Raises UserError for an unknown kind, or one that nothing but the eye can mend.
    """
    if kind not in KINDS:
        raise UserError(f"{kind} is no kind of problem.", f"Known: {', '.join(KINDS)}.")
    problems = [problem for problem in lint(project) if problem.kind == kind]
    edits = [(problem.ids, CaptionEdit.load(problem.fix)) for problem in problems if problem.fix]
    if problems and not edits:
        raise UserError(f"{problems[0].text} There is no edit that mends this.", problems[0].remedy)
    changes = []
    for field in ("caption", "prose"):
        before = project.texts(field, used=True)
        after = dict(before)
        for ids, edit in edits:
            if edit.field == field:
                change = caption_edits.change_of(edit, project.plan)
                after |= {image: change(after[image]) for image in ids}
        changes += captioning.diff_of_texts("", before, after, field).changes
    return Diff(f"Mend {kind.replace('_', ' ')}", tuple(changes))


def prune(project: Project, tags: Iterable[str], digest: str | None = None) -> list[int]:
    """Take tags out of all captions, those of rejected pictures too, and note them in the plan, so that the tagger
    leaves them out as well; returns the ids of the changed pictures.

    Undo brings the captions back; the plan keeps the words. `digest` is that of the diff that was shown. Raises
    UserError, and nothing has happened, for the trigger itself or when the captions have changed since.
    """
    plan = project.plan
    gone = captions.unique(tag.strip() for tag in tags)
    if plan.trigger.casefold() in (tag.casefold() for tag in gone):
        raise UserError(f"{plan.trigger} is the trigger.", "It stays in the captions: choose other tags.")
    edit = CaptionEdit(do="prune", tags=tuple(gone))
    done = captioning.write(project, caption_edits.preview(project, None, edit), digest)
    pruned = captions.unique([*plan.prune_tags, *gone])
    if pruned != list(plan.prune_tags):
        project.save_plan(plan.model_copy(update={"prune_tags": tuple(pruned)}))
    return done


def _captions(project: Project) -> dict[int, str]:
    return project.texts("caption", used=True)


def _scores(project: Project) -> Mapping[int, Mapping[str, float]]:
    """What the plan's tagger believes of the pictures that it has looked at."""
    key = looking.names(project.plan).get("scores")
    if key is None:
        return {}
    images = project.used_images()
    found = Looks(project.folder).get(key, [image.sha256 for image in images])
    return {image.id: json.loads(found[image.sha256]) for image in images if image.sha256 in found}


def _tokens(project: Project) -> tuple[dict[int, tuple[int, ...]], tuple[int, ...]]:
    """The length of each caption for each encoder of the base, and how much each of them reads; empty when unknown."""
    try:
        counts = tokens.counts(project)
    except UserError:  # a base that cannot be read; Training says what is wrong with it
        return {}, ()
    encoders = max(map(len, counts.values()), default=0)
    return counts, (training.current(project).data.max_tokens,) * encoders
