"""Compares strategies with the papers' equations in NumPy, on a network of two matrices with numerical gradients."""

import dataclasses
import functools
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.special import log_softmax

import data
import transfer
from models import Outputs

RATE, CLASSES, ROWS = 0.2, 4, 6


class Plain(nn.Module):
    """embedding = pixels @ A, logits = embedding @ B; the only stage is the embedding as a map of one position."""

    @nn.compact
    def __call__(self, images, train=False):
        init = nn.initializers.normal(0.7)
        x = images.reshape(len(images), -1)
        embedding = x @ self.param("A", init, (x.shape[1], 3))
        logits = embedding @ self.param("B", init, (3, CLASSES))
        return Outputs(logits, {"stage1": embedding[:, None, None], "embedding": embedding})


def batches(count: int = 2, views: int = 0, labels=((0, 1, 2, 3, -1, 1), (2, 2, 0, -1, 3, 1))) -> list[data.Batch]:
    """Batches of 6 images of 2x2x1 with some labels withheld, one an epoch, in each another order of the examples."""
    random, found = np.random.RandomState(3), []
    for step in range(count):
        image = [jnp.asarray(random.uniform(-1, 1, (ROWS, 2, 2, 1)), jnp.float32) for _ in range(1 + views)]
        index = jnp.asarray(np.roll(np.arange(ROWS), step), jnp.int32)
        label = jnp.asarray(labels[step % 2], jnp.int32)
        batch = data.Batch(image[0], label, index, jnp.float32(step), tuple(image[1:]), examples=ROWS)
        found.append(batch)
    return found


def build(name: str, **options) -> types.SimpleNamespace:
    """A strategy on `Plain`, with its compiled init and step."""
    player = transfer.Player("student", Plain(), (0.0,), (1.0,))
    strategy = transfer.create(name, student=player, optimizer=optax.sgd(RATE), **options)
    return types.SimpleNamespace(strategy=strategy, init=jax.jit(strategy.init), step=jax.jit(strategy.step))


def compiled(player: transfer.Player, train: bool = True):
    """(variables, images) -> `Outputs` and statistics of a network by itself; compiled once a network."""
    return _compiled(dataclasses.replace(player, name=""), train)


@functools.cache
def _compiled(player, train):
    return jax.jit(functools.partial(player.forward, train=train))


def flat(image) -> np.ndarray:
    """Images as rows of pixels, float64."""
    return np.asarray(image, np.float64).reshape(len(image), -1)


def answer(params: dict, image) -> tuple[np.ndarray, np.ndarray]:
    """(embedding, logits) of `Plain` in float64; `params` may hold more than its own."""
    embedding = flat(image) @ params["student"]["A"]
    return embedding, embedding @ params["student"]["B"]


def cross_entropy(logits, label) -> float:
    """Mean over the labelled rows, 0 without any."""
    label = np.asarray(label)
    rows = np.flatnonzero(label >= 0)
    return -log_softmax(logits[rows], axis=1)[np.arange(len(rows)), label[rows]].mean() if len(rows) else 0.0


def divergence(student, teacher, temperature: float) -> float:
    """T^2 KL(teacher || student), mean over rows."""
    s, t = (log_softmax(z / temperature, axis=1) for z in (student, teacher))
    return temperature**2 * (np.exp(t) * (t - s)).sum(axis=1).mean()


def simulate(run, seen: list[data.Batch], terms, after=lambda params, batch: None) -> tuple:
    """Descends with the strategy and with the equations, and compares terms and weights after each step.

    Args:
        run: what `build` gave.
        seen: a batch a step.
        terms: (params, fixed, batch) -> {name: value} in float64, with respect to whose first argument is descended;
            `fixed` are the same parameters where the equations do not differentiate.
        after: called with the parameters before each update and the batch, once a step.

    Returns:
        (the strategy's last state, the simulation's last parameters).
    """
    state = run.init(jax.random.key(0), seen[0])
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), state.params)
    for batch in seen:
        state, metrics = run.step(state, batch, jax.random.key(1))
        expected = terms(params, params, batch)
        for name, value in expected.items():
            np.testing.assert_allclose(metrics[name], value, rtol=2e-5, atol=1e-7, err_msg=name)
        np.testing.assert_allclose(metrics["loss"], sum(expected.values()), rtol=2e-5)
        slope = gradient(lambda p, b=batch, f=params: sum(terms(p, f, b).values()), params)
        after(params, batch)
        params = jax.tree.map(lambda p, g: p - RATE * g, params, slope)
        for found, wanted in zip(jax.tree.leaves(state.params), jax.tree.leaves(params), strict=True):
            np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=2e-6)
    return state, params


def gradient(function, params: dict) -> dict:
    """Central differences of a function of a tree of float64 arrays."""
    leaves, structure = jax.tree.flatten(params)

    def at(number, place, change):
        moved = [x.copy() for x in leaves]
        moved[number][place] += change
        return function(jax.tree.unflatten(structure, moved))

    slopes = [np.zeros_like(x) for x in leaves]
    for number, leaf in enumerate(leaves):
        for place in np.ndindex(leaf.shape):
            slopes[number][place] = (at(number, place, 1e-5) - at(number, place, -1e-5)) / 2e-5
    return jax.tree.unflatten(structure, slopes)


def unlabelled(batch: data.Batch) -> data.Batch:
    """The same without any label."""
    return batch.replace(label=jnp.full_like(batch.label, -1))
