"""What a set of a kind should cover, and by which tags one sees it: data, in the words of booru-like taggers.

A word stands for itself; `* shirt` for every tag that ends so, each counted as a value of its own (`red shirt`).
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal


@dataclass(frozen=True)
class Subject:
    """One aspect: which tags show which value of it, and what it should have."""

    name: str
    values: dict[str, tuple[str, ...]]
    """Value -> tags that show it; the value `*` takes tags by their ending, each for itself."""
    expected: tuple[str, ...] = ()
    """Values that a good set has; each that is missing is named."""
    implied: str = ""
    """The value of pictures whose caption says nothing of it: nobody tags a front view."""
    least: int = 2
    """So many different values at least."""
    learned: str = ""
    """What becomes of it when nearly all pictures share one value, as the end of a sentence."""
    add: str = ""
    """The way out."""
    words: tuple[str, ...] = ()
    """By which the plan's words mean this aspect."""

    def named_by(self, tag: str) -> list[tuple[int, str]]:
        """Which values a tag shows, each with its place among them."""
        found = self._by_word.get(tag, [])
        if not found and tag.endswith(self._endings):
            return [(list(self.values).index("*"), "*")]
        return found

    @cached_property
    def _by_word(self) -> dict[str, list[tuple[int, str]]]:
        found: dict[str, list[tuple[int, str]]] = {}
        for place, (name, words) in enumerate(self.values.items()):
            for word in words:
                found.setdefault(word, []).append((place, name))
        return found

    @cached_property
    def _endings(self) -> tuple[str, ...]:
        return tuple(word[1:] for word in self.values.get("*", ()) if word.startswith("*"))


Kind = Literal["character", "style", "concept"]

GARMENTS = (
    "shirt", "t-shirt", "jacket", "dress", "hoodie", "sweater", "coat", "uniform", "armor", "armour", "kimono",
    "swimsuit", "bikini", "suit", "blouse", "vest", "cardigan", "cape", "robe", "overalls", "tank top", "leotard",
    "apron", "yukata", "serafuku", "outfit", "costume", "pajamas", "bodysuit", "top",
)  # fmt: skip
PLACES = (
    "outdoors", "indoors", "forest", "city", "street", "beach", "sea", "ocean", "sky", "mountain", "field", "park",
    "garden", "room", "bedroom", "kitchen", "classroom", "office", "library", "shop", "cafe", "castle", "ruins",
    "desert", "snow", "space", "underwater", "bridge", "rooftop", "train interior", "stage", "landscape", "night sky",
)  # fmt: skip
COLOURS = (
    "black", "brown", "blonde", "red", "pink", "blue", "green", "purple", "white", "grey", "gray", "orange", "yellow",
    "silver", "aqua",
)  # fmt: skip

FRAMING = {
    "close-up": ("close-up", "face", "portrait", "head only", "extreme close-up", "face focus", "headshot"),
    "upper body": ("upper body", "bust", "cowboy shot", "half body", "waist up", "medium shot"),
    "full body": ("full body", "full-body", "wide shot", "full shot", "standing full body", "very wide shot"),
}
ANGLE = {
    "front view": ("front view", "from front", "looking at viewer", "facing viewer", "straight-on"),
    "side view": ("from side", "side view", "profile", "facing left", "facing right", "three-quarter view"),
    "back view": ("from behind", "back view", "facing away", "looking back", "back"),
    "from above or below": ("from above", "from below", "high angle", "low angle"),
}
EXPRESSION = {
    "smiling": ("smile", "smiling", "grin", "happy", "laughing", "light smile", "smirk"),
    "serious": ("serious", "neutral expression", "expressionless", "closed mouth", "frown"),
    "sad": ("sad", "crying", "tears", "sobbing", "pout"),
    "angry": ("angry", "scowl", "clenched teeth", "annoyed"),
    "surprised": ("surprised", "open mouth", "shocked", "wide-eyed", "scared"),
    "eyes closed": ("closed eyes", "sleeping", "one eye closed", "wink"),
    "embarrassed": ("blush", "embarrassed", "shy"),
}
LIGHTING = {
    "daylight": ("day", "sunlight", "daylight", "blue sky", "natural light"),
    "night": ("night", "dark", "moonlight", "night sky", "dim lighting"),
    "sunset": ("sunset", "sunrise", "golden hour", "dusk", "dawn", "orange sky"),
    "artificial light": ("neon lights", "lamp", "candlelight", "studio lighting", "spotlight", "firelight"),
    "against the light": ("backlighting", "rim lighting", "silhouette"),
}
PEOPLE = {
    "a person": ("1girl", "1boy", "solo", "1person", "person", "man", "woman", "girl", "boy", "1other", "face",
                 "portrait"),
    "several people": ("2girls", "2boys", "multiple girls", "multiple boys", "crowd", "group", "couple", "3girls",
                       "people"),
    "an animal": ("animal", "cat", "dog", "bird", "horse", "creature", "no humans", "dragon", "fish", "fox", "rabbit"),
    "a place": ("landscape", "scenery", "building", "city", "house", "cityscape", "interior", "forest", "mountain",
                "street", "castle"),
    "a thing": ("still life", "food", "vehicle", "car", "flower", "weapon", "object", "plant", "fruit", "furniture",
                "book", "ship"),
}  # fmt: skip
SIGNS_OF_A_PERSON = (" hair", " shirt", " skin", " eyes", " dress", " hat")
"""Endings of tags that only people have; taggers that know nothing but people never say `person`."""

_FRAMING = Subject(
    "framing", FRAMING, ("close-up", "upper body", "full body"), learned="other distances will come out badly",
    add="Add pictures from nearer and from farther away; several crops of one large picture help.",
    words=("framing", "distance", "crop", "shot"),
)  # fmt: skip
_BACKGROUND = Subject(
    "background", {"*": ("* background", *PLACES)}, least=4,
    learned="the background will be learned as part of the {kind}",
    add="Add pictures before other backgrounds, or keep the background as a tag in every caption.",
    words=("background", "backgrounds", "setting", "place", "surroundings", "scene"),
)  # fmt: skip
_LIGHTING = Subject(
    "lighting", LIGHTING, learned="it will be drawn in that light everywhere",
    add="Add some in other light: by day, at night, indoors.", words=("lighting", "light", "time of day"),
)  # fmt: skip

SUBJECTS: dict[str, tuple[Subject, ...]] = {
    "character": (
        _FRAMING,
        Subject(
            "angle", ANGLE, ("front view", "side view", "back view"), "front view",
            learned="other views will be made up", add="Add pictures from the side and from behind.",
            words=("angle", "view", "pose", "direction"),
        ),
        Subject(
            "expression", EXPRESSION, least=3, learned="the face will always look so",
            add="Add other expressions.", words=("expression", "expressions", "mood", "emotion", "face"),
        ),
        _LIGHTING,
        _BACKGROUND,
        Subject(
            "outfit", {"*": tuple(f"* {garment}" for garment in GARMENTS) + GARMENTS}, least=3,
            learned="the {thing} will be learned as part of the character",
            add="Add pictures in other clothes, or put the clothes in the plan if they belong to the character.",
            words=("outfit", "clothes", "clothing", "outfits", "costume"),
        ),
    ),
    "style": (
        Subject(
            "subjects", PEOPLE, ("a person", "an animal", "a place", "a thing"), least=3,
            learned="the style will be learned as a way to draw only that",
            add="Add other subjects in the same style: people, animals, places, things.",
            words=("subject", "subjects", "person", "people"),
        ),
        _FRAMING,
        _LIGHTING,
        Subject("palette", {}, least=3, learned="the style will always have these colours",
                add="Add pictures with other colours, unless they belong to the style.",
                words=("palette", "colour", "colours", "color", "colors")),
    ),
    "concept": (
        Subject(
            "subject", {"*": tuple(f"{colour} hair" for colour in COLOURS)}, least=4,
            learned="the concept will be tied to one person",
            add="Show it on other people or things.", words=("person", "people", "hair", "subject", "skin"),
        ),
        _FRAMING,
        _BACKGROUND,
    ),
}  # fmt: skip
