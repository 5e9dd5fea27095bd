"""docs/choosing.md has the gains that follow from the published tables."""

import re

import pytest

import distiller
from configs import published
from studies import gains


def test_the_page_is_up_to_date():
    text = gains.PAGE.read_text()
    assert gains.page(text) == text, "run python -m studies.gains"
    assert f"{gains.MARKS[0]}| method | pairs of one family |" in text


def test_a_gain_is_the_difference_from_softlogits_on_the_same_pairs():
    same, other = gains.gains()["CRD"]
    assert (len(same), len(other)) == (7, 6)
    assert same[0] == pytest.approx(75.48 - 74.92)  # WRN_40_2,WRN_16_2
    assert other[0] == pytest.approx(69.73 - 67.37)  # VGG13,MobileNetV2
    assert all(len(one) + len(two) >= gains.LEAST for one, two in gains.gains().values())


def test_softlogits_is_as_far_above_labels_alone_as_the_page_says():
    text = " ".join(gains.PAGE.read_text().split())
    found = {True: [], False: []}
    for pair, top1 in published.top1("SoftLogits").items():
        found[gains.one_family(pair)].append(top1 - published.LABELS[pair.split(",")[1]])
    one, two = (f"{sum(found[same]) / len(found[same]):.2f}" for same in (True, False))
    assert f"has {one} points more than labels alone in the mean over {len(found[True])} pairs of one family" in text
    assert f"and {two} over {len(found[False])} pairs of two families" in text


def test_methods_that_need_labels_are_those_that_the_page_lists():
    text = " ".join(gains.PAGE.read_text().split())
    (listed,) = re.findall(r"Methods that need labels are refused: ([\w, ]+)\.", text)
    assert listed.split(", ") == sorted(name for name in distiller.names() if distiller.create(name).needs_labels)


@pytest.mark.parametrize(
    ("pair", "one"),
    [
        ("ResNet56,ResNet20", True),
        ("ResNet32x4,ResNet8x4", True),
        ("WRN_40_2,WRN_16_2", True),
        ("ResNet50,VGG8", False),
        ("ResNet32x4,ShuffleNetV1", False),
        ("WRN_40_2,ResNet8x4", False),
    ],
)
def test_families_are_those_of_the_names(pair, one):
    assert gains.one_family(pair) == one
