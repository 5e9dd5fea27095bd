"""Networks, batches and strategies for the strategies' tests."""

import dataclasses
import functools
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from drawn import drawn

import distiller
import transfer
from models import Outputs, forward
from models.layers import BatchNorm, Dense
from models.outputs import Taps
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
    """Role -> a player with the network of `small` and input statistics."""
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
    """Two trees -> whether they are equal bit for bit."""

    def check(a, b):
        a, b = jax.tree.map(jnp.asarray, (a, b))
        return jax.tree.structure(a) == jax.tree.structure(b) and all(
            x.dtype == y.dtype and np.array_equal(x, y)
            for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
        )

    return check


class Linear(nn.Module):
    """Logits of one linear layer on the pixels: what can be followed by hand."""

    num_classes: int = 10

    @nn.compact
    def __call__(self, images, train: bool = False):
        x = images.reshape(images.shape[0], -1)
        return Outputs(logits=Dense(self.num_classes, name="linear")(x), features={"embedding": x})


@pytest.fixture(scope="session")
def linear():
    """Role -> a player with a linear network, which does not normalise the images."""
    return lambda name: transfer.Player(name, Linear(), (0.0,), (1.0,))


class Staged(nn.Module):
    """Two stages, 8x8 and 4x4, of a linear layer, batch norm and ReLU: a network that compiles in no time."""

    num_classes: int = 10

    def setup(self):
        self.dense1, self.dense2 = Dense(6), Dense(8)
        self.bn1, self.bn2 = BatchNorm(), BatchNorm()
        self.classifier = Dense(self.num_classes)

    def __call__(self, images, train: bool = False, deltas: dict | None = None):
        x, tap = images, Taps(deltas)
        for stage, dense, norm in ((1, self.dense1, self.bn1), (2, self.dense2, self.bn2)):
            x = tap(f"stage{stage}_preact", norm(dense(x[:, ::stage, ::stage]), train))
            x = tap(f"stage{stage}", nn.relu(x))
        x = tap("embedding", tap("final", x).mean((1, 2)))
        return Outputs(logits=self.classify(x), features=tap.features)

    def classify(self, embedding):
        """Logits of an embedding."""
        return self.classifier(embedding)


class Dropping(nn.Module):
    """`Staged` on images of which training zeroes half of the pixels."""

    num_classes: int = 10

    def setup(self):
        self.inner, self.drop = Staged(self.num_classes), nn.Dropout(0.5)

    def __call__(self, images, train: bool = False, deltas: dict | None = None):
        return self.inner(self.drop(images, deterministic=not train), train, deltas)

    def classify(self, embedding):
        """Logits of an embedding."""
        return self.inner.classify(embedding)


@pytest.fixture(scope="session")
def dropping():
    """A network that draws random numbers in training, in a role."""
    return lambda name: transfer.Player(name, Dropping(), (0.5,), (0.25,))


@pytest.fixture(scope="session")
def staged():
    """Role -> a player with a network of two stages for 8x8x1."""
    return lambda name: transfer.Player(name, Staged(), (0.5,), (0.25,))


def seen_by(strategy, batch, seed: int = 0):
    """`batch` of an epoch's middle, with random images for the further views that a strategy asks for."""
    random = np.random.RandomState(10 + seed)

    def image():
        return jnp.asarray(random.uniform(size=batch.image.shape).astype(np.float32))

    views = tuple(image() for _ in strategy.views[1:])
    found = batch.replace(epoch=jnp.float32(0.5), examples=len(batch.label), views=views)
    if "previous" in strategy.views:
        number = strategy.views.index("previous") - 1
        order = (batch.label + 1) % len(batch.label)
        previous = found.replace(image=views[number], views=(), label=batch.label[order], index=batch.index[order])
        found = found.replace(previous=previous)
    return found


class Cast:
    """Implements `transfer.base.Builder`: two untrained networks beside the student, or one trained one."""

    has_weights = False

    def __init__(self, staged, batch):
        self.staged, self.batch = staged, batch

    def trained(self, name, frozen=True):
        return [(self.staged(name), drawn(self.staged(name).model, self.batch.image, 5))]

    def untrained(self, name):
        return tuple(self.staged(n) for n in dict.fromkeys(name.format(i) for i in (1, 2)))


def kept():
    """A link of an optimizer that keeps the gradients: what a step's state says of its own gradients."""

    def update(gradients, state, params=None):
        return gradients, gradients

    return optax.GradientTransformation(lambda params: jax.tree.map(jnp.zeros_like, params), update)


@pytest.fixture(scope="session")
def cast(batch):
    """(name, role -> player) -> the strategy, made from what its class declares, and a batch with the views it sees."""

    def make(name: str, player):
        rules = transfer.registry.get(name)
        parts = {"student": player("student"), "optimizer": optax.chain(kept(), optax.sgd(0.05, 0.9))}
        if "train_epoch" in {field.name for field in dataclasses.fields(rules)}:
            parts["train_epoch"] = 3
        if "distiller" in rules.reads:
            method, options = rules.default_method
            parts["method"] = distiller.create(method, **options)
        strategy = transfer.create(name, **parts, **rules.players(Cast(player, batch)))
        return strategy, seen_by(strategy, batch)

    return make


@pytest.fixture(scope="session")
def build(staged, cast):
    """Name -> any strategy on two-stage networks, made from what its class declares, with its step compiled once.

    It has two peers or one teacher if it asks for them, its default method, and its options' defaults. Further fields
    are its first state, the state after a step, the metrics and gradients of that step, and the batch of the step.
    """

    @functools.cache
    def make(name: str):
        strategy, seen = cast(name, staged)
        init, traces = jax.jit(strategy.init), []

        @jax.jit
        def step(state, batch, key):
            traces.append(1)
            return strategy.step(state, batch, key)

        state = init(jax.random.key(0), seen)
        after, metrics = step(state, seen, jax.random.key(1))
        return types.SimpleNamespace(
            strategy=strategy,
            init=init,
            step=step,
            state=state,
            after=after,
            metrics=metrics,
            gradients=after.opt_state[0],
            batch=seen,
            traces=traces,
        )

    return make
