import numpy as np
import pytest

from pretrained import orders

PADDED = [f"{i:02d}" for i in range(12)]
NUMBERS = [str(i) for i in range(12)]
TEXT = sorted(NUMBERS)


def answers(network, names, labels, mistakes=0):
    """What a network that orders its classes as `network` answers to images with `labels` in `names`."""
    prediction = np.array([network.index(names[label]) for label in labels])
    random = np.random.RandomState(0)
    wrong = random.choice(len(labels), mistakes, replace=False)
    prediction[wrong] = (prediction[wrong] + random.randint(1, len(names), mistakes)) % len(names)
    return prediction


CASES = {
    "numbers, read as text": (NUMBERS, TEXT, "sorted as numbers"),
    "text, read as numbers": (TEXT, NUMBERS, "sorted as text"),
    "text, padded since": (sorted(PADDED, key=lambda n: str(int(n))), PADDED, "without leading zeros"),
    "capitals": (["ant", "Bee", "cat", "Dog", "elk"], ["Bee", "Dog", "ant", "cat", "elk"], "alike"),
}


@pytest.mark.parametrize("each", [1, 5])
@pytest.mark.parametrize("case", CASES)
def test_the_order_that_programs_sort_by_is_found(
    case,
    each,
):
    network, names, how = CASES[case]
    labels = np.repeat(np.arange(len(names)), each if len(names) > 5 else 5 * each)
    description, order, accuracy = orders.better(answers(network, names, labels, 1), labels, names)
    assert how in description
    assert order == network
    assert accuracy == pytest.approx(100 * (1 - 1 / len(labels)))


def test_any_other_order_is_found_from_enough_images():
    random = np.random.RandomState(0)
    names = [f"class {letter}" for letter in "abcdefgh"]
    network = [names[i] for i in random.permutation(8)]
    labels = random.permutation(np.repeat(np.arange(8), 6))
    description, order, accuracy = orders.better(answers(network, names, labels, 5), labels, names)
    assert description == "found from the images"
    assert order == network
    assert accuracy > 75


@pytest.mark.parametrize("seed", range(20))
def test_no_order_is_suggested_for_a_guess_or_for_the_right_one(seed):
    random = np.random.RandomState(seed)
    for names, each in ((NUMBERS, 1), (NUMBERS, 4), (["ant", "bee"], 6), (PADDED, 50)):
        labels = np.repeat(np.arange(len(names)), each)
        assert orders.better(random.randint(0, len(names), len(labels)), labels, names) is None  # a guess
        assert orders.better(np.zeros_like(labels), labels, names) is None  # one answer for all
        assert orders.better(answers(names, names, labels, len(labels) // 3), labels, names) is None


def test_a_guess_is_told_from_a_weak_network():
    labels = np.repeat(np.arange(10), 100)
    random = np.random.RandomState(0)
    assert orders.no_better_than_chance(random.randint(0, 10, 1000), labels) is True
    assert orders.no_better_than_chance(np.zeros(1000, int), labels) is True
    weak = np.where(random.uniform(size=1000) < 0.1, labels, random.randint(0, 10, 1000))  # about 19 %
    assert orders.no_better_than_chance(weak, labels) is False
    assert orders.no_better_than_chance(labels, labels) is False
    assert orders.no_better_than_chance((labels + 1) % 10, labels) is True
    uneven = np.repeat([0, 1], [90, 10])
    assert orders.chance(uneven) == pytest.approx(0.9)
    assert orders.no_better_than_chance(np.zeros(100, int), uneven) is True


def test_too_few_images_tell_nothing():
    assert orders.no_better_than_chance(np.array([0, 0, 1, 1]), np.array([0, 0, 1, 1])) is None
    assert orders.no_better_than_chance(np.zeros(5, int), np.zeros(5, int)) is None
