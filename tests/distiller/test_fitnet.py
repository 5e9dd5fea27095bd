import jax
import jax.numpy as jnp
import numpy as np
import pytest

import distiller
from distiller.fitnet import hint_loss
from models import Outputs

RANDOM = np.random.RandomState(0)
FEATURES = {f"stage{i}": jnp.asarray(RANDOM.standard_normal((4, 6, 6, 3 * i)), jnp.float32) for i in (1, 2, 3)}
STUDENT = Outputs(jnp.zeros((4, 2)), FEATURES)
TEACHER = Outputs(jnp.zeros((4, 2)), {f"stage{i}": FEATURES[f"stage{4 - i}"] + 0.5 for i in (1, 2, 3)})


@pytest.mark.slow
def test_only_the_chosen_stage_counts(batch):
    for stage in (1, 2, 3):
        method = distiller.create("FitNet", stage=stage)

        def loss(student, method=method):
            return method.init_with_output(jax.random.key(0), student, TEACHER, batch)[0][0]

        gradients = jax.jit(jax.grad(loss))(STUDENT).features
        assert {name for name, g in gradients.items() if np.any(g)} == {f"stage{stage}"}


@pytest.mark.slow
def test_the_regressor_is_relu_of_batch_norm_of_a_convolution(batch):
    method = distiller.create("FitNet", weight=1.0)
    variables = jax.jit(method.init)(jax.random.key(0), STUDENT, TEACHER, batch)
    (kernel,) = [np.asarray(x, np.float64)[0, 0] for x in jax.tree.leaves(variables) if x.ndim == 4]
    y = np.asarray(FEATURES["stage2"], np.float64) @ kernel
    y = (y - y.mean((0, 1, 2))) / np.sqrt(y.var((0, 1, 2)) + 1e-5)
    target = np.asarray(TEACHER.features["stage2"], np.float64)
    found, _ = method.apply(variables, STUDENT, TEACHER, batch)
    np.testing.assert_allclose(found, ((np.maximum(y, 0) - target) ** 2).mean(), rtol=1e-5)
    found, _ = distiller.create("FitNet", weight=1.0, relu=False).apply(variables, STUDENT, TEACHER, batch)
    np.testing.assert_allclose(found, ((y - target) ** 2).mean(), rtol=1e-5)


def test_a_stage_that_is_not_there_is_named(batch):
    with pytest.raises(ValueError, match="stage=4, but these networks pair stages 1 to 3 only"):
        jax.jit(distiller.create("FitNet", stage=4).init)(jax.random.key(0), STUDENT, TEACHER, batch)


def test_other_shapes_are_named():
    with pytest.raises(ValueError, match=r"\(2, 4, 4, 3\).*\(2, 4, 4, 1\)"):
        hint_loss(jnp.zeros((2, 4, 4, 3)), jnp.zeros((2, 4, 4, 1)))
