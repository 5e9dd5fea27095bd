"""docs/choosing.md has the gains that follow from the published tables."""

import pytest

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
