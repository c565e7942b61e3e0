"""What the clusters of the map are called."""

from lora_studio.judge.naming import names


def test_a_cluster_is_called_by_what_only_it_shows():
    seen = [{"zorbi", "red hair", "smile"}] * 3 + [{"zorbi", "blue hair", "smile"}] * 2 + [{"zorbi"}]
    assert names([0, 0, 0, 1, 1, 1], seen) == {0: "red hair", 1: "blue hair"}


def test_a_cluster_that_no_tag_tells_from_the_rest_has_a_number():
    assert names([0] * 4 + [1] * 4, [{"smile"}] * 7 + [set()]) == {0: "group 1", 1: "group 2"}


def test_one_cluster_alone_is_all_pictures():
    assert names([0, 0], [{"red hair"}, {"red hair"}]) == {0: "all pictures"}
    assert names([], []) == {}
