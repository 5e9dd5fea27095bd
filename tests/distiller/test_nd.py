"""ND: class means over what batches have brought, rows without a label, and lengths."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import data
import distiller
from distiller.nd import norm_direction_rows
from models import Outputs

RANDOM = np.random.RandomState(0)


def test_a_longer_student_is_not_pulled_back_and_a_shorter_one_is_pulled_out():
    centre = jnp.array([[3.0, 0.0]])
    teacher = jnp.array([[2.0, 0.0]])
    rows = [norm_direction_rows(jnp.array([[length, 0.0]]), teacher, centre)[0] for length in (1.0, 2.0, 5.0)]
    np.testing.assert_allclose(rows, [0.5, 0.0, 0.0], atol=1e-6)


@pytest.mark.slow
def test_the_centres_are_the_means_of_all_embeddings_of_the_class():
    method = distiller.create("ND", weight=1.0)
    student, *teachers = RANDOM.standard_normal((3, 4, 5)).astype(np.float32)
    labels = np.array([[0, 0, 1, -1], [1, 0, -1, 1]], np.int32)

    def ask(variables, teacher, label):
        batch = data.Batch(jnp.zeros((4, 1)), jnp.asarray(label), jnp.arange(4), jnp.float32(0))
        s, t = (Outputs(jnp.zeros((4, 2)), {"embedding": jnp.asarray(x)}) for x in (student, teacher))
        if variables is None:
            return method.init(jax.random.key(0), s, t, batch)
        (loss, _), memory = method.apply(variables, s, t, batch, mutable=["memory"])
        return loss, memory

    variables = ask(None, teachers[0], labels[0])
    for teacher, label in zip(teachers, labels, strict=True):
        loss, variables = ask(variables, teacher, label)
    seen, known = np.concatenate(teachers), labels.reshape(-1)
    means = np.stack([seen[known == k].mean(0) for k in (0, 1)])
    np.testing.assert_allclose(variables["memory"]["means"], means, rtol=1e-5)
    kept = labels[1] >= 0
    expected = norm_direction_rows(student[kept], teachers[1][kept], means[labels[1][kept]])
    np.testing.assert_allclose(loss, np.mean(expected), rtol=1e-5)
