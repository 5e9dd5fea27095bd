import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, softmax

import distiller
from distiller.mlkd import batch_gram_loss, class_gram_loss, median_share
from models import Outputs

S, T, S2, T2 = np.random.RandomState(0).standard_normal((4, 6, 5)) * 3
TEMPERATURES = (4.0, 3.0, 5.0, 2.0, 6.0)


def kd(student, teacher, temperature):
    s, t = (log_softmax(z / temperature, axis=1) for z in (student, teacher))
    return temperature**2 * np.mean(np.sum(np.exp(t) * (t - s), axis=1))


def by_class(student, teacher, temperature):
    s, t = (softmax(z / temperature, axis=1) for z in (student, teacher))
    return np.sum((s.T @ s - t.T @ t) ** 2) / s.shape[1]


def by_image(student, teacher, temperature):
    s, t = (softmax(z / temperature, axis=1) for z in (student, teacher))
    return np.sum((s @ s.T - t @ t.T) ** 2) / s.shape[0]


def outputs(first, second=None):
    views = () if second is None else (Outputs(jnp.float32(second), {}),)
    return Outputs(jnp.float32(first), {}, views=views)


def test_it_asks_for_a_strong_view():
    assert distiller.create("MLKD").views == ("weak", "strong")


@pytest.mark.slow
@pytest.mark.parametrize("views", [1, 2])
def test_every_term_is_summed_over_temperatures_and_views(views, batch):
    pairs = [(S, T), (S2, T2)][:views]
    student, teacher = (outputs(*(pair[i] for pair in pairs)) for i in (0, 1))
    loss, terms = distiller.create("MLKD", weight=2.0).apply({}, student, teacher, batch)
    for name, term in (("MLKD_kd", kd), ("MLKD_class", by_class), ("MLKD_batch", by_image)):
        expected = 2 * sum(term(*pair, t) for pair in pairs for t in TEMPERATURES)
        np.testing.assert_allclose(terms[name], expected, rtol=1e-4)
    np.testing.assert_allclose(loss, sum(terms.values()), rtol=1e-6)


def test_the_released_codes_loss(batch):
    """Half of the weak terms, the strong KD at three temperatures, the weak one at two, no strong Gram terms."""
    method = distiller.create("MLKD", weight=1.0, released=True)
    _, terms = method.apply({}, outputs(S, S2), outputs(T, T2), batch)
    weak = softmax(T, axis=1)
    images = np.mean(weak.max(1) <= np.percentile(weak.max(1), 50))
    classes = np.mean(weak.sum(0) <= np.percentile(weak.sum(0), 50))
    assert (images, classes) == (0.5, 0.6)
    strong = sum(kd(S2, T2, t) for t in (4, 3, 5)) + sum(kd(S, T, t) for t in (2, 6))
    expected = images * sum(kd(S, T, t) for t in TEMPERATURES) + strong
    np.testing.assert_allclose(terms["MLKD_kd"], expected, rtol=1e-4)
    np.testing.assert_allclose(terms["MLKD_class"], classes * sum(by_class(S, T, t) for t in TEMPERATURES), rtol=1e-4)
    np.testing.assert_allclose(terms["MLKD_batch"], images * sum(by_image(S, T, t) for t in TEMPERATURES), rtol=1e-4)


def test_standardising_is_of_the_kd_terms_only(batch):
    method = distiller.create("MLKD", standardize=True, weight=1.0)
    _, terms = method.apply({}, outputs(S), outputs(T), batch)
    z = [(x - x.mean(1, keepdims=True)) / x.std(1, ddof=1, keepdims=True) for x in (S, T)]
    np.testing.assert_allclose(terms["MLKD_kd"], sum(kd(*z, t) for t in TEMPERATURES), rtol=1e-4)
    np.testing.assert_allclose(terms["MLKD_class"], sum(by_class(S, T, t) for t in TEMPERATURES), rtol=1e-4)


def test_gram_losses_see_neither_the_order_of_the_batch_nor_shifts():
    order = [3, 1, 5, 0, 2, 4]
    for loss in (class_gram_loss, batch_gram_loss):
        expected = loss(jnp.float32(S), jnp.float32(T), 2.0)
        np.testing.assert_allclose(loss(jnp.float32(S[order] + 4), jnp.float32(T[order]), 2.0), expected, rtol=1e-4)


def test_half_of_an_even_number_does_not_exceed_the_median():
    assert median_share(jnp.array([4.0, 1.0, 3.0, 2.0])) == 0.5
    np.testing.assert_allclose(median_share(jnp.array([1.0, 3.0, 2.0])), 2 / 3, rtol=1e-6)
