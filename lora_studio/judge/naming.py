"""What a cluster of the map is called: by what is seen in it more often than in the rest."""

from collections import Counter
from collections.abc import Collection, Sequence

IN_MOST = 0.5
"""A name must be true of at least half of the cluster,"""
MORE_OFTEN = 0.35
"""and of this much more of it than of the rest. Both chosen by looking at the sample projects, mixed."""
MOST_WORDS = 2


def names(clusters: Sequence[int], seen: Sequence[Collection[str]]) -> dict[int, str]:
    """clusters (N,) number of each picture's cluster, seen (N,) its tags -> a name for each cluster.

    Where no tag tells a cluster from the rest it is `group 3`, counted from 1; one that is alone is `all pictures`.
    """
    sizes = Counter(clusters)
    if len(sizes) == 1:
        return dict.fromkeys(sizes, "all pictures")
    every = Counter(tag for tags in seen for tag in set(tags))
    found = {}
    for number, size in sorted(sizes.items()):
        own = [set(tags) for cluster, tags in zip(clusters, seen, strict=True) if cluster == number]
        inside = Counter(tag for tags in own for tag in tags)
        outside = len(clusters) - size
        gains = {tag: count / size - (every[tag] - count) / outside for tag, count in inside.items()}
        telling = [tag for tag, gain in gains.items() if gain >= MORE_OFTEN and inside[tag] / size >= IN_MOST]
        best = sorted(telling, key=lambda tag: (-round(gains[tag], 3), tag))[:MOST_WORDS]
        found[number] = ", ".join(best) or f"group {number + 1}"
    return found
