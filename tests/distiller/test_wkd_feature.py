import jax
import jax.numpy as jnp
import numpy as np
import pytest

import distiller
from distiller.wkd_feature import cell_statistics, wasserstein_terms
from models import Outputs

X = np.random.RandomState(0).standard_normal((2, 5, 4, 3))


@pytest.mark.slow
@pytest.mark.parametrize("grid", [1, 2, 3, 7])
def test_statistics_are_numpys_in_the_cells_of_adaptive_pooling(grid):
    mean, deviation = cell_statistics(jnp.asarray(X, jnp.float32), grid)
    assert mean.shape == deviation.shape == (2, grid**2, 3)
    for i in range(grid):
        for j in range(grid):
            rows = slice(int(np.floor(i * 5 / grid)), int(np.ceil((i + 1) * 5 / grid)))
            columns = slice(int(np.floor(j * 4 / grid)), int(np.ceil((j + 1) * 4 / grid)))
            cell = X[:, rows, columns].reshape(2, -1, 3)
            variance = cell.var(1, ddof=1) if cell.shape[1] > 1 else 0 * cell[:, 0]
            np.testing.assert_allclose(mean[:, i * grid + j], cell.mean(1), rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(deviation[:, i * grid + j], np.sqrt(variance + 1e-5), rtol=1e-4)


def test_terms_sum_over_channels_and_average_over_cells_and_batch():
    x = jnp.asarray(X, jnp.float32)
    for grid in (1, 2):
        mean, deviation = wasserstein_terms(x + 2, x, grid)
        np.testing.assert_allclose(mean, 3 * 4, rtol=1e-5)
        np.testing.assert_allclose(deviation, 0, atol=1e-9)
    assert wasserstein_terms(2 * x, x)[1] > 1e-2


@pytest.mark.slow
def test_resolutions_may_differ_and_channels_may_not():
    x = jnp.asarray(X[:, :4], jnp.float32)
    doubled = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
    for grid in (1, 2):
        mean, _ = wasserstein_terms(doubled, x, grid)
        np.testing.assert_allclose(mean, 0, atol=1e-9)
    with pytest.raises(ValueError, match="differ in shape"):
        wasserstein_terms(x, x[..., :1])


@pytest.mark.slow
def test_a_constant_map_gives_finite_gradients():
    x = jnp.asarray(X, jnp.float32)
    gradient = jax.grad(lambda s: sum(wasserstein_terms(s, x)))(jnp.ones_like(x))
    assert np.isfinite(gradient).all()
    assert gradient.any()


def test_the_projection_ends_in_a_relu_on_request(batch):
    student = Outputs(jnp.zeros((2, 3)), {"stage1": jnp.asarray(X, jnp.float32)})
    teacher = Outputs(jnp.zeros((2, 3)), {"stage1": jnp.asarray(X[:, :2, :2] - 1, jnp.float32)})
    losses = {}
    for relu in (True, False):
        method = distiller.create("WKDFeature", weight=1.0, relu=relu)
        variables = jax.jit(method.init)(jax.random.key(0), student, teacher, batch)
        losses[relu] = method.apply(variables, student, teacher, batch)[0]
    assert losses[True] > losses[False]  # a mean of -1 is out of a ReLU's reach
