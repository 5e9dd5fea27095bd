"""What the strategies' tests share."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import distiller
import transfer
from models import forward
from models.resnet import ResNet


@pytest.fixture(scope="session")
def small(batch):
    """A ResNet of one block for 8x8x1, student's and teacher's variables, and one compiled function per mode."""
    model = ResNet(blocks=1, widths=(8, 8), num_classes=10)
    init = jax.jit(model.init)
    return types.SimpleNamespace(
        model=model,
        variables=init(jax.random.key(0), batch.image),
        teacher_variables=init(jax.random.key(5), batch.image),
        evaluate=jax.jit(lambda v, x: forward(model, v, x)[0]),
        train=jax.jit(lambda v, x: forward(model, v, x, train=True)),
    )


@pytest.fixture(scope="session")
def player(small):
    """The network in a role, with input statistics."""
    return lambda name, mean=0.5, std=0.25: transfer.Player(name, small.model, (mean,), (std,))


@pytest.fixture(scope="session")
def offline(player, small, batch):
    """Method's name -> an Offline strategy at 8x8x1, its first state and its step, compiled once.

    The teacher's input statistics are not the student's.
    """

    @functools.cache
    def build(method: str = "SoftLogits+AT"):
        strategy = transfer.create(
            "Offline",
            student=player("student"),
            teacher=player("teacher", 0.3, 2.0),
            teacher_variables=small.teacher_variables,
            method=distiller.create(method),
            optimizer=optax.sgd(0.1),
        )
        init, traces = jax.jit(strategy.init), []

        @jax.jit
        def step(state, batch, key):
            traces.append(1)
            return strategy.step(state, batch, key)

        state = init(jax.random.key(0), batch)
        return types.SimpleNamespace(strategy=strategy, init=init, step=step, state=state, traces=traces)

    return build


@pytest.fixture
def same():
    """Two trees are equal bit for bit."""

    def check(a, b):
        a, b = jax.tree.map(jnp.asarray, (a, b))
        return jax.tree.structure(a) == jax.tree.structure(b) and all(
            x.dtype == y.dtype and np.array_equal(x, y)
            for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
        )

    return check
