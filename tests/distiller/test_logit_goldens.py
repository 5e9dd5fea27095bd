"""Goldens of pure functions that are a part of a method, or an option of one (tests/goldens/README.md)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_goldens import tensors

from distiller.mlkd import batch_gram_loss, class_gram_loss
from distiller.ofa import enhanced_loss
from distiller.soft_logits import kl_divergence, standardize

# `method` and `case` of the line -> (student_logits, teacher_logits, label) -> loss
FUNCTION_CASES = {
    ("SoftLogits_standardize", "T2"): lambda s, t, _: kl_divergence(standardize(s), standardize(t), 2.0),
    ("MLKD_class_gram", "T4"): lambda s, t, _: class_gram_loss(s, t, 4.0),
    ("MLKD_batch_gram", "T4"): lambda s, t, _: batch_gram_loss(s, t, 4.0),
    ("OFA_loss", "eps1.5T1"): lambda s, t, label: enhanced_loss(s, t, label, 1.5, 1.0),
}


@pytest.mark.parametrize("case", FUNCTION_CASES, ids="-".join)
def test_loss_and_gradient_are_the_reference_codes(case, golden):
    (numbers,) = [c for c in golden("losses")["cases"] if (c["method"], c["case"]) == case]
    student, teacher = tensors(numbers["seed"], numbers["same_resolution"])
    label = jnp.asarray(np.random.RandomState(numbers["seed"] + 2).randint(0, 100, 8), jnp.int32)

    def loss(logits):
        return FUNCTION_CASES[case](logits, jnp.asarray(teacher["teacher_logits"]), label)

    value, gradient = jax.jit(jax.value_and_grad(loss))(jnp.asarray(student["student_logits"]))
    np.testing.assert_allclose(value, numbers["loss"], rtol=1e-5)
    expected = numbers["grads"]["student_logits"]
    np.testing.assert_allclose(np.linalg.norm(gradient), expected["l2"], rtol=1e-4)
    floor = 1e-4 * expected["l2"] / np.sqrt(gradient.size)
    np.testing.assert_allclose(gradient.reshape(-1)[:4], expected["first"], rtol=1e-4, atol=floor)
