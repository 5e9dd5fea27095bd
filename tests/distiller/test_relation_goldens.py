"""Pure functions whose methods have a learned part, against the numbers of the references' own code."""

import jax
import numpy as np
import pytest
from test_goldens import tensors

from distiller.reviewkd import hierarchical_context_loss
from distiller.wkd_feature import wasserstein_terms


def reviewkd(student, teacher):
    return sum(hierarchical_context_loss(s, t) for s, t in zip(student[1:], teacher[1:], strict=True))


GOLDENS = {
    "ReviewKD_hcl": reviewkd,
    "WKDFeature_mean": lambda s, t: wasserstein_terms(s[3], t[3])[0],
    "WKDFeature_std": lambda s, t: wasserstein_terms(s[3], t[3])[1],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", GOLDENS)
def test_loss_and_gradients_are_the_reference_codes(name, golden):
    (numbers,) = [case for case in golden("losses")["cases"] if case["method"] == name]
    student, teacher = tensors(numbers["seed"], numbers["same_resolution"])
    student = [student[f"student_feature_{i}"] for i in range(4)]
    teacher = [teacher[f"teacher_feature_{i}"][..., : s.shape[-1]] for i, s in enumerate(student)]

    def loss(student):
        return GOLDENS[name]([jax.nn.relu(x) for x in student], [jax.nn.relu(x) for x in teacher])

    value, gradients = jax.jit(jax.value_and_grad(loss))(student)
    np.testing.assert_allclose(value, numbers["loss"], rtol=1e-5)
    for i, gradient in enumerate(gradients):
        expected = numbers["grads"].get(f"student_feature_{i}")
        if expected is None:
            assert not np.any(gradient)
            continue
        np.testing.assert_allclose(np.linalg.norm(gradient), expected["l2"], rtol=1e-4)
        floor = 1e-4 * expected["l2"] / np.sqrt(gradient.size)
        np.testing.assert_allclose(gradient.reshape(-1)[:4], expected["first"], rtol=1e-4, atol=floor)
