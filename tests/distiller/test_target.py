import jax.numpy as jnp
import numpy as np
import pytest

from distiller.target import labelled_mean, ramp, refuse_two_classes, split_target


@pytest.mark.slow
def test_the_others_are_all_classes_but_the_label():
    logits = jnp.arange(12.0).reshape(3, 4)
    target, others = split_target(logits, jnp.array([2, 0, 3], jnp.int32))
    np.testing.assert_array_equal(target, [[2], [4], [11]])
    np.testing.assert_array_equal(np.sort(others, axis=1), [[0, 1, 3], [5, 6, 7], [8, 9, 10]])


@pytest.mark.slow
def test_withheld_rows_are_left_out_of_the_mean():
    rows = jnp.array([1.0, 100.0, 4.0])
    assert labelled_mean(rows, jnp.array([0, -1, 5])) == 2.5
    assert labelled_mean(rows, jnp.array([-1, -1, -1])) == 0


def test_the_ramp_counts_whole_epochs_from_one():
    epochs = [0.0, 0.99, 1.0, 8.5, 9.0, 50.0]
    found = [float(ramp(jnp.float32(epoch), 10)) for epoch in epochs]
    np.testing.assert_allclose(found, [0.1, 0.1, 0.2, 0.9, 1.0, 1.0], rtol=1e-6)
    assert ramp(jnp.float32(0), 0) == 1


def test_three_classes_are_enough():
    refuse_two_classes("X", jnp.zeros((1, 3)))
    with pytest.raises(ValueError, match=r"X needs 3 classes or more and found 2.*\nUse SoftLogits"):
        refuse_two_classes("X", jnp.zeros((1, 2)))
