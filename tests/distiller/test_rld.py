"""RLD: no class below the label, no second term; a sure teacher; a row without a label."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distiller.rld import masked_correlation_rows, sample_confidence_rows


@pytest.mark.slow
def test_an_image_without_a_class_below_the_label_has_no_second_term():
    teacher = jnp.array([[0.0, 1.0, 2.0], [2.0, 1.0, 0.0]])
    student = jnp.array([[1.0, 3.0, -1.0], [1.0, 3.0, -1.0]])
    label = jnp.array([0, 0])
    value, gradient = jax.value_and_grad(lambda s: masked_correlation_rows(s, teacher, label).sum())(student)
    assert value > 0
    assert not np.any(gradient[0])
    assert np.isfinite(gradient).all()
    assert masked_correlation_rows(student, teacher, label)[0] == 0


@pytest.mark.slow
def test_the_first_term_is_zero_where_the_student_is_as_sure_of_the_label_as_the_teacher_of_its_class():
    teacher, student = jnp.array([[0.0, 2.0, 1.0]]), jnp.array([[2.0, 1.0, 0.0]])
    np.testing.assert_allclose(sample_confidence_rows(student, teacher, jnp.array([0]), 3.0), 0, atol=1e-6)


@pytest.mark.slow
def test_a_sure_teacher_gives_finite_losses_and_gradients():
    teacher, student = 1e5 * jnp.array([[1.0, 0.0, 0.5]]), jnp.array([[0.0, 1.0, 0.5]])
    for rows in (masked_correlation_rows, sample_confidence_rows):
        value, gradient = jax.value_and_grad(lambda s, rows=rows: rows(s, teacher, jnp.array([0]), 4.0).sum())(student)
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()
