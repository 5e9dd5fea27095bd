"""Probes of embeddings: the vote by hand, blocks, ties, and what the regression must tell apart."""

import numpy as np
import pytest

from explain import probes

RANDOM = np.random.RandomState(0)
CENTRES = RANDOM.standard_normal((4, 6)) * 2
LABELS = RANDOM.randint(0, 4, 90)
MEMORY = (CENTRES[LABELS] + RANDOM.standard_normal((90, 6)) * 2).astype(np.float32)
TRUE = RANDOM.randint(0, 4, 37)
QUERIES = (CENTRES[TRUE] + RANDOM.standard_normal((37, 6)) * 2).astype(np.float32)


def votes(queries, neighbours, temperature):
    """The sum of exp(cos / T) of each class over the nearest, in float64."""

    def unit(x):
        return x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)

    cosine = unit(queries) @ unit(MEMORY).T
    found = np.zeros((len(queries), 4))
    for row, own in zip(found, cosine, strict=True):
        for i in np.argsort(-own, kind="stable")[:neighbours]:
            row[LABELS[i]] += np.exp(own[i] / temperature)
    return found


@pytest.mark.parametrize(("neighbours", "temperature"), [(20, 0.07), (1, 0.07), (90, 1.0), (500, 10.0)])
def test_the_vote_is_the_formula(neighbours, temperature):
    found = probes.knn(MEMORY, LABELS, QUERIES, neighbours, temperature)
    assert found.tolist() == votes(QUERIES, neighbours, temperature).argmax(1).tolist()


def test_neighbours_and_temperature_matter():
    usual = probes.knn(MEMORY, LABELS, QUERIES)
    assert np.mean(usual == TRUE) > 0.4  # chance is 0.25
    assert not np.array_equal(usual, probes.knn(MEMORY, LABELS, QUERIES, 1))
    assert not np.array_equal(usual, probes.knn(MEMORY, LABELS, QUERIES, 90, 10.0))


def test_blocks_of_any_size_answer_alike(monkeypatch):
    expected = probes.knn(MEMORY, LABELS, QUERIES)
    for scores in (1, 90 * 10, 90 * 36):
        monkeypatch.setattr(probes, "SCORES", scores)
        assert np.array_equal(probes.knn(MEMORY, LABELS, QUERIES), expected)


def test_of_equal_similarities_the_earlier_votes_and_of_equal_votes_the_lower_class_wins():
    memory, query = np.ones((3, 2), np.float32), np.ones((1, 2), np.float32)
    assert probes.knn(memory, np.array([1, 0, 0]), query, 1).tolist() == [1]
    assert probes.knn(memory, np.array([1, 0, 0]), query, 2).tolist() == [0]


def test_an_embedding_of_zeros_is_no_error():
    assert probes.knn(MEMORY, LABELS, np.zeros((2, 6), np.float32)).shape == (2,)


def test_the_regression_tells_classes_apart_whatever_the_scale_of_a_coordinate():
    labels, memory = np.arange(60) % 3, RANDOM.standard_normal((60, 5))
    memory[:, 0] = labels + 0.1 * memory[:, 0]
    memory[:, 4] = 7.0  # says nothing
    found, converged = probes.linear(memory, labels, memory)
    assert converged
    assert (found == labels).all()
    scaled, _ = probes.linear(memory * [1e-3, 1, 1e4, 1, 1], labels, memory * [1e-3, 1, 1e4, 1, 1])
    assert np.array_equal(scaled, found)
    again, _ = probes.linear(memory, labels, memory)
    assert np.array_equal(again, found)


def test_a_regression_that_is_cut_off_says_so(monkeypatch):
    monkeypatch.setattr(probes, "STEPS", 1)
    assert probes.linear(MEMORY, LABELS, QUERIES)[1] is False
