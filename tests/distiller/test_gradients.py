"""Every method's gradient is the derivative of its loss: central differences in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from smooth_network import answer, keys, loss_of, make_batch, player

import distiller

STEPS = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7)
DIRECTIONS = 3


def normal_like(tree, seed):
    random = np.random.RandomState(seed)
    return jax.tree.map(lambda x: random.standard_normal(x.shape).astype(x.dtype), tree)


def inner(a, b):
    return sum(float(np.vdot(x, y)) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def compare(loss, gradient, point, seed):
    """Along random directions: (the gradient's slope, the closest slope of central differences over STEPS).

    A kink between the two ends of a difference spoils large steps, rounding (of connectors that compute in float32)
    small ones; a wrong gradient is far from all of them. The points are computed by NumPy, which compiles nothing.
    """
    for i in range(DIRECTIONS):
        direction = normal_like(point, seed + i)
        expected = inner(gradient, direction)

        def along(step, direction=direction):
            return float(loss(jax.tree.map(lambda x, d: x + step * d, point, direction)))

        slopes = [(along(step) - along(-step)) / (2 * step) for step in STEPS]
        yield expected, min(slopes, key=lambda slope: abs(slope - expected))


@functools.cache
def build(name):
    """The method, the batch, the student's parameters, and three compiled functions.

    That of a batch: the teacher's answer, the method's parameters and what it remembers; and those of both parameters
    and all of these: the loss, and its gradients by the parameters.
    """
    method = distiller.create(name, weight=1.0)
    batch = make_batch(method, jnp.float64)
    student, student_variables = player((3, 4, 5, 6), 5, 1, batch.image)
    teacher, teacher_variables = player((4, 5, 6, 7), 5, 2, batch.image)

    @jax.jit
    def prepare(batch):
        taught = answer(teacher, teacher_variables, batch, method)
        asked = answer(student, student_variables, batch, method)
        variables = method.init(keys(), asked, taught, batch)
        variables = jax.tree.map(lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, dict(variables))
        memory = {collection: value for collection, value in variables.items() if collection != "params"}
        if memory:  # constants that the first call of all sets are no longer free
            rngs = {"method": jax.random.key(2)}
            memory = dict(method.apply(variables, asked, taught, batch, rngs=rngs, mutable=list(memory))[1])
        return taught, variables.get("params", {}), memory

    def loss(student_params, method_params, taught, memory, batch):
        asked = answer(student, {"params": student_params}, batch, method)
        return loss_of(method, {"params": method_params, **memory}, asked, taught, batch)

    return method, batch, student_variables["params"], prepare, jax.jit(loss), jax.jit(jax.grad(loss, argnums=(0, 1)))


@pytest.mark.parametrize("epoch", [0.0, 1000.0])  # before and after warm-ups and first phases
@pytest.mark.parametrize("name", distiller.names())
def test_the_gradient_is_the_derivative(name, epoch):
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        method, batch, student_params, prepare, loss_at, gradient_at = build(name)
        batch = batch.replace(epoch=np.float32(epoch))
        taught, method_params, memory = prepare(batch)
        point = jax.device_get((student_params, method_params))

        def loss(student_params, method_params):
            return loss_at(student_params, method_params, taught, memory, batch)

        value, (by_student, by_method) = loss(*point), gradient_at(*point, taught, memory, batch)
        if method.adversarial:  # the method climbs: how strongly is its own matter and tested with it
            moved = [(lambda p: loss(p, point[1]), by_student, point[0])]
        else:
            moved = [(lambda p: loss(*p), (by_student, by_method), point)]
            if jax.tree.leaves(point[1]):
                moved.append((lambda p: loss(point[0], p), by_method, point[1]))
        if method.first_phase_epochs and value == 0:  # it has taught all that it teaches
            assert epoch >= method.first_phase_epochs
            assert not any(np.any(g) for g in jax.tree.leaves((by_student, by_method)))
            return
        assert any(np.any(g) for g in jax.tree.leaves((by_student, by_method)))
        scale = max(abs(float(value)), 1e-3)
        for part, (function, gradient, where) in enumerate(moved):
            for expected, found in compare(function, gradient, where, seed=10 * part):
                np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-7 * scale)
