"""The gradient is the derivative of the loss, by central differences in float64, where more than autodiff makes it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from smooth_network import answer, asked, keys, loss_of, make_batch, player

import distiller

# Why autodiff alone does not answer for the method. All other methods differentiate plain operations.
METHODS = {
    "KDSVD": "a derivative of its own, for eigenvectors",
    "CTKD": "a reversed gradient",
    "WKDLogit": "Sinkhorn's iterations",
    "VkD": "a linear solver",
    "RKD": "guards at distance 0",
    "CRD": "a branch, and constants that the first call sets",
    "GradAT": "second derivatives",
    "LwM": "second derivatives",
    "E2KD": "second derivatives",
    "ExplanationMatch": "second derivatives",
}
OPTIONS = {"ExplanationMatch": {"map": "GradientTimesInput", "distance": "kl"}}
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


def build(name):
    """The loss of both parameters with its gradients, compiled, at what the method draws and remembers.

    Returns:
        The method, the student's and the method's parameters, and the function.
    """
    method = distiller.create(name, weight=1.0, **OPTIONS.get(name, {}))
    batch = make_batch(method, jnp.float64)
    student, student_variables = player((3, 4, 5, 6), 5, 1, batch.image)
    teacher, teacher_variables = player((4, 5, 6, 7), 5, 2, batch.image)

    @jax.jit
    def prepare():
        own, its = (answer(*p, batch, method) for p in ((student, student_variables), (teacher, teacher_variables)))
        variables = method.init(keys(), own, its, batch)
        variables = jax.tree.map(lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, dict(variables))
        params = variables.get("params", {})
        # constants that the first call of all sets are no longer free
        return its, params, dict(asked(method, variables, own, its, batch)[1])

    taught, method_params, memory = prepare()

    def loss(student_params, method_params):
        own = answer(student, {"params": student_params}, batch, method)
        return loss_of(method, {"params": method_params, **memory}, own, taught, batch)

    return (
        method,
        student_variables["params"],
        jax.device_get(method_params),
        jax.jit(jax.value_and_grad(loss, argnums=(0, 1))),
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_the_gradient_is_the_derivative(name):
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        method, *point, both = build(name)
        value, (by_student, by_method) = both(*point)

        def loss(student_params, method_params):
            return both(student_params, method_params)[0]

        if method.adversarial:  # the method climbs: how strongly is its own matter and tested with it
            moved = [(lambda p: loss(p, point[1]), by_student, point[0])]
        else:
            moved = [(lambda p: loss(*p), (by_student, by_method), tuple(point))]
            if jax.tree.leaves(point[1]):
                moved.append((lambda p: loss(point[0], p), by_method, point[1]))
        assert any(np.any(g) for g in jax.tree.leaves((by_student, by_method)))
        scale = max(abs(float(value)), 1e-3)
        for part, (function, gradient, where) in enumerate(moved):
            for expected, found in compare(function, gradient, where, seed=10 * part):
                np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-7 * scale)
