"""Goldens of parts of methods, whose whole has learned connectors, and that none of them is left out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_goldens import CASES, tensors

from distiller.fitnet import hint_loss
from distiller.ft import factor_loss
from distiller.ofd import partial_l2


def hint(student, teacher):
    return hint_loss(jax.nn.relu(student), jax.nn.relu(teacher[..., : student.shape[-1]]))


def factor(student, teacher):
    return factor_loss(jax.nn.relu(student), jax.nn.relu(teacher), pool_channels=True)


def partial(student, teacher):
    return partial_l2(student, teacher[..., : student.shape[-1]], jnp.linspace(-1.5, -0.1, 64))


PARTS = {  # golden -> stage, loss of its student's and teacher's tensor
    ("FitNet_hint", "equal_channels_stage2"): (2, hint),
    ("FactorTransfer", "p2q1"): (2, factor),
    ("OFD_partial_l2", "margin_linspace"): (3, partial),
}


@pytest.mark.parametrize("case", PARTS, ids="-".join)
def test_loss_and_gradient_are_the_reference_codes(case, golden):
    (numbers,) = [c for c in golden("losses")["cases"] if (c["method"], c["case"]) == case]
    stage, loss = PARTS[case]
    student, teacher = tensors(numbers["seed"], numbers["same_resolution"])
    name = f"student_feature_{stage}"
    value, gradient = jax.jit(jax.value_and_grad(loss))(student[name], teacher[f"teacher_feature_{stage}"])
    np.testing.assert_allclose(value, numbers["loss"], rtol=1e-5)
    assert set(numbers["grads"]) == {name}
    expected, gradient = numbers["grads"][name], np.asarray(gradient, np.float64)
    np.testing.assert_allclose(np.linalg.norm(gradient), expected["l2"], rtol=1e-4)
    floor = 1e-4 * expected["l2"] / np.sqrt(gradient.size)
    np.testing.assert_allclose(gradient.reshape(-1)[:4], expected["first"], rtol=1e-4, atol=floor)


def test_every_golden_of_the_feature_methods_is_checked(golden):
    methods = {"FitNet_hint", "NST", "AB", "FactorTransfer", "FSP", "OFD_partial_l2"}
    here = {(c["method"], c["case"]) for c in golden("losses")["cases"] if c["method"] in methods}
    assert {method for method, _ in here} == methods
    assert here <= PARTS.keys() | {case.golden for case in CASES}
