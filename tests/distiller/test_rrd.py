"""RRD: the loss by NumPy, and the queue from step to step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import distiller
from distiller.rrd import relation_loss
from models import Outputs

RANDOM = np.random.RandomState(0)


def rows(count, width=4):
    x = RANDOM.standard_normal((count, width))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def softmax(x):
    return np.exp(x) / np.exp(x).sum(1, keepdims=True)


@pytest.mark.slow
def test_it_is_numpys_and_the_target_gets_no_gradient():
    u, v, queue = rows(3), rows(3), rows(7)
    arguments = [jnp.asarray(x, jnp.float32) for x in (u, v, queue)]
    expected = -np.mean(np.sum(softmax(v @ queue.T / 0.05) * np.log(softmax(u @ queue.T / 0.1)), axis=1))
    np.testing.assert_allclose(relation_loss(*arguments, 0.1, 0.05), expected, rtol=1e-5)
    student, *others = jax.grad(lambda *x: relation_loss(*x, 0.1, 0.05), (0, 1, 2))(*arguments)
    assert student.any()
    assert not any(np.any(g) for g in others)


def outputs(count):
    return Outputs(jnp.zeros((count, 2)), {"embedding": jnp.asarray(rows(count, 5), jnp.float32)})


@pytest.mark.slow
def test_the_oldest_rows_go_first_and_the_batch_is_in_the_queue():
    method = distiller.create("RRD", queue=7, feat_dim=4)
    student = outputs(3)
    keys = {"params": jax.random.key(0), "method": jax.random.key(1)}
    variables = jax.jit(method.init)(keys, student, outputs(3), None)
    memory = variables["memory"]
    first = np.asarray(memory["queue"])
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1, rtol=1e-6)
    written = []
    for step in range(3):
        teacher = outputs(3)
        v = np.asarray(teacher.features["embedding"] @ memory["embed_teacher"])
        written += list(v / np.linalg.norm(v, axis=1, keepdims=True))
        _, changed = method.apply({**variables, "memory": memory}, student, teacher, None, mutable=["memory"])
        np.testing.assert_array_equal(changed["memory"]["embed_teacher"], memory["embed_teacher"])
        memory = changed["memory"]
        assert memory["oldest"] == (3 * (step + 1)) % 7
    expected = np.stack([*written[7:], *written[2:7]])  # nine rows in a ring of seven
    np.testing.assert_allclose(memory["queue"], expected, rtol=1e-5, atol=1e-6)


def test_a_batch_larger_than_the_queue_is_refused():
    method = distiller.create("RRD", queue=2)
    keys = {"params": jax.random.key(0), "method": jax.random.key(1)}
    with pytest.raises(ValueError, match=r"queue has 2 rows, and a batch has 3\.\nGive .*queue=3 or more"):
        jax.eval_shape(lambda: method.init(keys, outputs(3), outputs(3), None))
