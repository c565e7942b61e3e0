"""A small form of benchmarks/detection.py: each detector sees its damage, and leaves the other pictures alone."""

import pytest

from benchmarks import detection

# recall and precision that each must reach here; the full table stands in benchmarks/results/detection.md
WANTED = {
    "blur of 1 %": (0.95, 0.95),
    "shrunk to 64 pixels": (0.95, 0.95),
    "light to a quarter": (0.95, 0.95),
    "bleached to the upper third": (0.95, 0.95),
    "contrast to a fifth": (0.95, 0.95),
    "JPEG 10": (0.6, 0.95),
    "bars above and below, 10 %": (0.85, 0.95),
    "subtitle": (0.7, 0.95),
}


@pytest.fixture(scope="module")
def found():
    sets = [one[::4] for one in detection.samples()]
    return detection.rates(sets, {name: detection.DAMAGE[name] for name in WANTED})


@pytest.mark.parametrize("name", WANTED)
def test_damage_is_seen_and_nothing_else_is_taken_for_it(found, name):
    recall, precision = WANTED[name]
    assert found[name]["recall"] >= recall, found[name]
    assert (found[name]["precision"] or 0) >= precision, found[name]
