"""Withheld labels and two classes, for every method."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from smooth_network import answer, keys, loss_of, make_batch, player

import distiller
from models import Outputs


@functools.cache
def build(name, classes=5):
    """The batch, and a function of it: the loss and its gradients by the student's parameters, all in one program."""
    method = distiller.create(name)
    taught_first = method.first_phase_epochs and "student" in method.first_phase_learns  # some teach only then
    batch = make_batch(method, classes=classes, epoch=0.0 if taught_first else 1000.0)
    student, student_variables = player((3, 4, 5, 6), classes, 1, batch.image)
    teacher, teacher_variables = player((4, 5, 6, 7), classes, 2, batch.image)

    @jax.jit
    def run(student_variables, teacher_variables, batch):
        taught = answer(teacher, teacher_variables, batch, method)
        variables = dict(method.init(keys(), answer(student, student_variables, batch, method), taught, batch))

        def loss(params):
            return loss_of(method, variables, answer(student, {"params": params}, batch, method), taught, batch)

        return jax.value_and_grad(loss)(student_variables["params"])

    return batch, functools.partial(run, student_variables, teacher_variables)


@pytest.mark.parametrize("label", [[-1] * 6, [0, -1, 2, -1, -1, 4]], ids=["all", "some"])
@pytest.mark.parametrize("name", distiller.names())
def test_withheld_labels_give_finite_numbers(name, label):
    batch, run = build(name)
    value, gradients = run(batch.replace(label=jnp.asarray(label, jnp.int32)))
    assert np.isfinite(value)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))


@pytest.mark.parametrize("name", distiller.names())
def test_two_classes_work_or_are_refused_with_the_reason(name):
    refusal = None
    try:
        batch, run = build(name, classes=2)
        value, gradients = run(batch)
    except ValueError as error:
        refusal = str(error)
    if refusal is not None:
        assert all(part in refusal for part in (name, "3 classes", "Use "))
        return
    assert np.isfinite(value)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))
    assert any(np.any(np.abs(g) > 1e-9) for g in jax.tree.leaves(gradients))


@pytest.mark.parametrize("name", ["DKD", "NKD", "WKDLogit", "SDD"])
def test_what_needs_more_classes_is_refused(name):
    batch, run = build(name, classes=2)
    with pytest.raises(ValueError, match=f"{name} needs 3 classes or more and found 2"):
        run(batch)


@pytest.mark.parametrize("name", ["SoftLogits", "DKD", "MLKD"])
def test_standardised_logits_need_three_classes_too(name):
    method = distiller.create(name, standardize=True)
    logits = jnp.ones((4, 2))
    batch = make_batch(method, size=4, classes=2)
    with pytest.raises(ValueError, match="3 classes"):
        method.apply({}, Outputs(logits, {}), Outputs(logits, {}), batch)


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
