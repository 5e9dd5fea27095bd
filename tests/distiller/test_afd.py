import jax
import jax.numpy as jnp
import numpy as np
import pytest

import distiller
from distiller.afd import Attention, attended_loss
from models import Outputs

S, T = np.random.RandomState(0).standard_normal((2, 3, 4, 4, 5))
RHO = np.random.RandomState(1).dirichlet(np.ones(5), 3)


def arrays(*values):
    return [jnp.asarray(x, jnp.float32) for x in values]


def test_it_is_numpys():
    def normalised(x):
        return x / np.linalg.norm(x.reshape(3, 16, 5), axis=1)[:, None, None]

    expected = (RHO * np.square(normalised(S) - normalised(T)).mean((1, 2))).sum(1).mean()
    np.testing.assert_allclose(attended_loss(*arrays(S, T, RHO)), expected, rtol=1e-5)


def test_the_scale_of_each_channel_does_not_matter():
    scaled = S * np.array([1e-3, 1, 7, 50, 0.1])
    np.testing.assert_allclose(attended_loss(*arrays(scaled, T, RHO)), attended_loss(*arrays(S, T, RHO)), rtol=1e-4)


def test_attention_is_a_two_layer_squeeze_and_excitation_that_sums_to_one():
    (x,) = arrays(T)
    layer = Attention(0.6)
    params = jax.jit(layer.init)(jax.random.key(0), x)["params"]
    hidden = np.maximum(T.mean((1, 2)) @ params["squeeze"]["kernel"] + params["squeeze"]["bias"], 0)
    assert hidden.shape == (3, 3)
    raw = 1 / (1 + np.exp(-(hidden @ params["excite"]["kernel"] + params["excite"]["bias"])))
    np.testing.assert_allclose(layer.apply({"params": params}, x), raw / raw.sum(1, keepdims=True), rtol=1e-5)


@pytest.mark.slow
def test_dead_channels_give_finite_gradients():
    student = jnp.asarray(S, jnp.float32).at[..., 2].set(0)
    gradient = jax.grad(lambda s: attended_loss(s, *arrays(T, RHO)))(student)
    assert np.isfinite(gradient).all()
    assert not gradient[..., 2].any()
    assert gradient[..., 1].any()


def test_only_unequal_channels_are_connected_and_stages_are_averaged(batch):
    s, t, other = arrays(S, T, T[:, :2, :2, :3])
    student = Outputs(jnp.zeros((3, 2)), {"stage1": s, "stage2": s})
    method = distiller.create("AFD", weight=1.0)
    same = Outputs(jnp.zeros((3, 2)), {"stage1": t, "stage2": s})
    variables = jax.jit(method.init)(jax.random.key(0), student, same, batch)
    assert sorted(variables["params"]) == ["attention1", "attention2"]
    attention = Attention(1.0).apply({"params": variables["params"]["attention1"]}, t)
    found = method.apply(variables, student, same, batch)[0]
    np.testing.assert_allclose(found, attended_loss(s, t, attention) / 2, rtol=1e-6)
    unequal = Outputs(jnp.zeros((3, 2)), {"stage1": t, "stage2": other})
    params = jax.jit(method.init)(jax.random.key(0), student, unequal, batch)["params"]
    assert params["connector2"]["kernel"].shape == (1, 1, 5, 3)
    assert "connector1" not in params


def test_unequal_channels_are_refused_by_the_pure_function():
    with pytest.raises(ValueError, match="differ in shape"):
        attended_loss(*arrays(S, T[..., :1], RHO))
