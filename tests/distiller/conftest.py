"""Student and teacher outputs of real, tiny networks, for any method."""

import functools
import types

import jax
import pytest
from drawn import drawn

import models


@pytest.fixture(scope="session")
def pair(tiny, batch):
    """Gradient taps -> functions (student, teacher) of images: ResNet8 and ResNet8x4, evaluation mode."""
    teacher = models.create("ResNet8x4", 10)
    teacher_variables = drawn(teacher, batch.image, 4)

    @functools.cache
    def build(taps: tuple[str, ...] = ()):
        def run(model, variables):
            compiled = jax.jit(lambda v, x: models.forward(model, v, x, gradient_taps=taps)[0])
            return functools.partial(compiled, variables)

        return types.SimpleNamespace(student=run(tiny.model, tiny.variables), teacher=run(teacher, teacher_variables))

    return build
