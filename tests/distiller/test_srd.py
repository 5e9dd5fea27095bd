import jax
import jax.numpy as jnp
import numpy as np
import pytest

import distiller
from distiller.soft_logits import kl_divergence
from distiller.srd import log_sum_distance
from models import Outputs

S, T = np.random.RandomState(0).standard_normal((2, 6, 4))
F32 = [jnp.asarray(x, jnp.float32) for x in (S, T)]


def test_it_is_numpys():
    def normalised(x):
        return (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-4)

    for alpha in (1, 4):
        expected = np.log(np.sum(np.abs(normalised(S) - normalised(T)) ** alpha))
        np.testing.assert_allclose(log_sum_distance(*F32, alpha), expected, rtol=1e-4)


def test_the_teachers_scale_and_shift_do_not_matter():
    np.testing.assert_allclose(log_sum_distance(F32[0], 9 * F32[1] - 4), log_sum_distance(*F32), rtol=1e-3)


@pytest.mark.slow
def test_equal_features_give_a_finite_number_and_no_gradient():
    value, gradient = jax.value_and_grad(log_sum_distance)(F32[0], F32[0])
    np.testing.assert_allclose(value, np.log(1e-8), rtol=1e-5)
    assert not gradient.any()


@pytest.mark.slow
def test_terms_are_the_projected_embeddings_and_the_probabilities(batch):
    logits = [jnp.asarray(np.random.RandomState(i).standard_normal((6, 3)), jnp.float32) for i in (3, 4)]
    student, teacher = Outputs(logits[0], {"embedding": F32[0][:, :3]}), Outputs(logits[1], {"embedding": F32[1]})
    method = distiller.create("SRD", temperature=2.0, feature_weight=3.0)
    variables = jax.jit(method.init)(jax.random.key(0), student, teacher, batch)
    layer = variables["params"]["projector"]
    _, terms = method.apply(variables, student, teacher, batch)
    projected = F32[0][:, :3] @ layer["kernel"] + layer["bias"]
    np.testing.assert_allclose(terms["SRD_feature"], 3 * log_sum_distance(projected, F32[1]), rtol=1e-5)
    np.testing.assert_allclose(terms["SRD_logits"], kl_divergence(*logits, 2.0), rtol=1e-6)
