"""Withheld labels and two classes, where a method has more to say of them than the contract asks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from smooth_network import answer, loss_of, make_batch, player

import distiller
from models import Outputs


@pytest.mark.parametrize("name", ["SoftLogits", "DKD", "MLKD"])
def test_standardised_logits_need_three_classes_too(name):
    method = distiller.create(name, standardize=True)
    logits = jnp.ones((4, 2))
    batch = make_batch(method, size=4, classes=2)
    with pytest.raises(ValueError, match="3 classes"):
        method.apply({}, Outputs(logits, {}), Outputs(logits, {}), batch)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["DKD", "NKD", "WKDLogit", "SDD"])
def test_a_row_without_a_label_is_as_if_it_were_not_there(name):
    """The mean is over the labelled rows; where there are none the loss is 0."""
    method = distiller.create(name)
    batch = make_batch(method)
    student, student_variables = player((3, 4, 5, 6), 5, 1, batch.image)
    teacher, teacher_variables = player((4, 5, 6, 7), 5, 2, batch.image)
    players = (student, student_variables), (teacher, teacher_variables)
    both = jax.jit(lambda batch: [answer(*its, batch, method) for its in players])(batch)
    kept = np.array([0, 2, 5])
    label = np.full(6, -1, np.int32)
    label[kept] = np.asarray(batch.label)[kept]

    @jax.jit
    def loss(rows, label):
        parts = [
            x.replace(logits=x.logits[rows], features={name: f[rows] for name, f in x.features.items()}) for x in both
        ]
        return loss_of(method, {}, *parts, batch.replace(label=label))

    found = loss(np.arange(6), label)
    np.testing.assert_allclose(found, loss(kept, label[kept]), rtol=1e-5)
    assert abs(found - loss(np.arange(6), batch.label)) > 1e-4 * found
    assert loss(np.arange(6), np.full(6, -1, np.int32)) == 0
