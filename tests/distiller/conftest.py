"""Student and teacher outputs of real, tiny networks, for any method."""

import functools
import types

import jax
import numpy as np
import pytest

import models


@pytest.fixture(scope="session")
def pair(tiny, batch):
    """Gradient taps -> functions (student, teacher) of images: ResNet8 and ResNet8x4, evaluation mode."""
    teacher = models.create("ResNet8x4", 10)
    shapes = jax.eval_shape(teacher.init, jax.random.key(0), batch.image)
    random = np.random.RandomState(4)

    def fill(path, x):
        kind = path[-1].key
        if kind in ("mean", "var", "scale", "bias"):
            return np.full(x.shape, kind in ("var", "scale"), x.dtype)
        return (random.standard_normal(x.shape) * np.prod(x.shape[:-1]) ** -0.5).astype(x.dtype)

    teacher_variables = jax.tree_util.tree_map_with_path(fill, shapes)

    @functools.cache
    def build(taps: tuple[str, ...] = ()):
        def run(model, variables):
            compiled = jax.jit(lambda v, x: models.forward(model, v, x, gradient_taps=taps)[0])
            return functools.partial(compiled, variables)

        return types.SimpleNamespace(student=run(tiny.model, tiny.variables), teacher=run(teacher, teacher_variables))

    return build
