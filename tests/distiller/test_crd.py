"""CRD against a plain simulation of what RepDistiller publishes, and what this code does differently."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import data
import distiller
from distiller import crd
from models import Outputs

N, D, B, K = 12, 4, 4, 6
T, MOMENTUM = 0.07, 0.5
LABELS = np.array([0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5])
OPTIONS = {"weight": 1.0, "negatives": K, "feat_dim": D, "temperature": T, "momentum": MOMENTUM}


def outputs(seed, width):
    feature = np.random.RandomState(seed).standard_normal((B, width)).astype(np.float32)
    return Outputs(jnp.zeros((B, 3)), {"embedding": jnp.asarray(feature)})


def batch(index, label=None, examples=N):
    index = np.asarray(index, np.int32)
    label = LABELS[index] if label is None else label
    image = jnp.zeros((len(index), 1, 1, 1))
    return data.Batch(image, jnp.asarray(label, jnp.int32), jnp.asarray(index), jnp.float32(0), examples=examples)


def normalise(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


class Published:
    """The published algorithm, row by row in float64; its data loader knows all labels."""

    def __init__(self, memory, params):
        self.banks = [np.asarray(memory[who], np.float64) for who in ("student", "teacher")]
        self.layers = [jax.tree.map(np.float64, params[f"embed_{who}"]) for who in ("student", "teacher")]
        self.z = [-1.0, -1.0]

    def step(self, features, index, drawn):
        """(student's loss, teacher's loss); `drawn[i]` are row i's negatives."""
        embedded = [
            normalise(np.float64(f) @ layer["kernel"] + layer["bias"])
            for f, layer in zip(features, self.layers, strict=True)
        ]
        losses = []
        for who, other in ((0, 1), (1, 0)):
            rows = [np.concatenate([[i], own]) for i, own in zip(index, drawn, strict=True)]
            score = np.stack([np.exp(self.banks[other][r] @ v / T) for r, v in zip(rows, embedded[who], strict=True)])
            if self.z[who] < 0:
                self.z[who] = score.mean() * N
            p, noise = score / self.z[who], K / N
            d1, d0 = np.log(p[:, 0] / (p[:, 0] + noise + 1e-7)), np.log(noise / (p[:, 1:] + noise + 1e-7))
            losses.append(-(d1.sum() + d0.sum()) / B)
        for bank, v in zip(self.banks, embedded, strict=True):
            bank[index] = normalise(MOMENTUM * bank[index] + (1 - MOMENTUM) * v)
        return losses


@pytest.mark.slow
def test_three_steps_are_the_published_ones(monkeypatch):
    """Shared negatives of other classes than the batch's: then both algorithms see the same and must agree."""
    steps = [
        ([0, 2, 3, 1], [4, 7, 9, 9, 11, 5]),
        ([4, 6, 5, 7], [0, 2, 2, 10, 8, 1]),
        ([3, 1, 8, 9], [5, 4, 7, 6, 11, 4]),
    ]
    method = distiller.create("CRD", **OPTIONS)
    variables = jax.jit(method.init)(jax.random.key(3), outputs(0, 5), outputs(1, 7), batch(steps[0][0]))
    params, memory = variables["params"], variables["memory"]
    np.testing.assert_array_equal(memory["normaliser"], [-1, -1])
    plain = Published(memory, params)
    for number, (index, drawn) in enumerate(steps):
        monkeypatch.setattr(crd, "draw", lambda key, count, size, drawn=drawn: jnp.asarray(drawn, jnp.int32))
        s, t = outputs(10 + number, 5), outputs(20 + number, 7)
        (loss, terms), changed = method.apply(
            {"params": params, "memory": memory},
            s,
            t,
            batch(index),
            rngs={"method": jax.random.key(0)},
            mutable="memory",
        )
        memory = changed["memory"]
        features = [np.asarray(x.features["embedding"]) for x in (s, t)]
        expected = plain.step(features, np.array(index), np.broadcast_to(drawn, (B, K)))
        np.testing.assert_allclose([terms["CRD_student"], terms["CRD_teacher"]], expected, rtol=1e-4)
        np.testing.assert_allclose(loss, sum(expected), rtol=1e-4)
        np.testing.assert_allclose(memory["normaliser"], plain.z, rtol=1e-4)
        for who, bank in zip(("student", "teacher"), plain.banks, strict=True):
            np.testing.assert_allclose(memory[who], bank, atol=1e-5)
    seen = sorted({i for index, _ in steps for i in index})
    np.testing.assert_array_equal(np.flatnonzero(memory["label"] >= 0), seen)
    np.testing.assert_array_equal(np.asarray(memory["label"])[seen], LABELS[seen])


def test_shared_negatives_have_the_expectation_of_own_ones_of_other_classes():
    random = np.random.RandomState(0)
    anchor, bank = normalise(random.standard_normal((B, D))), normalise(random.standard_normal((N, D)))
    index, z = np.array([0, 2, 5, 11]), 3.0
    p, noise = np.exp(anchor @ bank.T / T) / z, K / N
    expected = np.mean(
        [
            -np.log(p[i, index[i]] / (p[i, index[i]] + noise))
            - K * np.log(noise / (p[i, LABELS[index[i]] != LABELS] + noise)).mean()
            for i in range(B)
        ]
    )

    @jax.jit
    @jax.vmap
    def loss(key):
        drawn = crd.draw(key, K, N)
        counts = crd.countable(jnp.asarray(LABELS[index]), jnp.asarray(index), jnp.asarray(LABELS), drawn)
        arrays = (jnp.asarray(x, jnp.float32) for x in (anchor, bank))
        return crd.contrast(*arrays, jnp.asarray(index), drawn, counts, jnp.float32(z), T)[0]

    found = np.asarray(loss(jax.random.split(jax.random.key(0), 4000)))
    error = found.std() / np.sqrt(len(found))
    assert error < 0.01 * expected
    np.testing.assert_allclose(found.mean(), expected, atol=4 * error)


def test_what_counts_is_of_another_or_an_unknown_class_and_another_example():
    labels = jnp.array([0, 0, 1, -1, -1])
    counts = crd.countable(jnp.array([0, -1]), jnp.array([0, 4]), labels, jnp.array([0, 1, 2, 3, 4, 4]))
    np.testing.assert_array_equal(counts, [[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])


def test_a_label_once_seen_is_remembered_when_it_is_withheld():
    method, s, t = distiller.create("CRD", **OPTIONS), outputs(0, 5), outputs(1, 7)
    variables = jax.jit(method.init)(jax.random.key(3), s, t, batch([0, 1, 2, 3]))
    rngs = {"method": jax.random.key(0)}
    _, first = method.apply(variables, s, t, batch([0, 1, 2, 3]), rngs=rngs, mutable="memory")
    withheld = batch([0, 1, 4, 5], label=[-1] * B)
    _, second = method.apply({**variables, **first}, s, t, withheld, rngs=rngs, mutable="memory")
    np.testing.assert_array_equal(second["memory"]["label"], [0, 0, 1, 1] + [-1] * 8)


def test_with_no_negative_left_only_the_positive_counts():
    anchor = bank = jnp.eye(3)
    index, nothing = jnp.arange(3), jnp.zeros((3, 2), bool)
    loss, z = crd.contrast(anchor, bank, index, jnp.array([0, 1]), nothing, jnp.float32(-1), 1.0)
    np.testing.assert_allclose(z, np.e / 3 * 3, rtol=1e-6)
    np.testing.assert_allclose(loss, np.log1p((2 / 3) / (np.e / z)), rtol=1e-6)


@pytest.mark.parametrize("outside", [N, N + 5, -1])
def test_an_index_outside_gives_nan_and_touches_nobodys_memory(outside):
    method, s, t = distiller.create("CRD", **OPTIONS), outputs(0, 5), outputs(1, 7)
    variables = jax.jit(method.init)(jax.random.key(3), s, t, batch([0, 1, 2, 3]))
    wrong = batch([0, 1, 2, 3]).replace(index=jnp.array([0, 1, 2, outside]))
    (loss, _), changed = method.apply(variables, s, t, wrong, rngs={"method": jax.random.key(0)}, mutable="memory")
    assert np.isnan(loss)
    for who in ("student", "teacher"):
        moved = np.any(np.asarray(changed["memory"][who]) != np.asarray(variables["memory"][who]), axis=1)
        np.testing.assert_array_equal(np.flatnonzero(moved), [0, 1, 2])
    assert (np.asarray(changed["memory"]["label"])[3:] == -1).all()


def test_an_example_that_comes_twice_moves_once_by_the_mean_in_any_order():
    random = np.random.RandomState(0)
    bank, rows = normalise(random.standard_normal((N, D))), normalise(random.standard_normal((3, D)))
    arrays = [jnp.asarray(x, jnp.float32) for x in (bank, rows, rows[[1, 2, 0]])]
    found = crd.moved(arrays[0], jnp.array([7, 2, 7]), arrays[1], MOMENTUM)
    again = crd.moved(arrays[0], jnp.array([2, 7, 7]), arrays[2], MOMENTUM)
    np.testing.assert_allclose(found, again, rtol=1e-6)
    expected = normalise((bank[7] / 2 + (rows[0] + rows[2]) / 4)[None])[0]
    np.testing.assert_allclose(found[7], expected, rtol=1e-5)


def test_the_memory_has_a_row_per_example():
    s, t, key = outputs(0, 5), outputs(1, 7), jax.random.key(0)

    def rows(examples):
        method = distiller.create("CRD", **OPTIONS)
        shapes = jax.eval_shape(functools.partial(method.init, key), s, t, batch([0, 1, 2, 3], examples=examples))
        return shapes["memory"]["student"].shape[0]

    assert (rows(N), rows(0)) == (N, B)
    method = distiller.create("CRD", **OPTIONS)
    variables = method.init(key, s, t, batch([0, 1, 2, 3]))
    with pytest.raises(ValueError, match="12 rows, but there are 20 examples"):
        method.apply(variables, s, t, batch([0, 1, 2, 3], examples=20), rngs={"method": key})


def test_memories_start_as_published():
    variables = distiller.create("CRD", **OPTIONS).init(
        jax.random.key(0), outputs(0, 5), outputs(1, 7), batch([0, 1, 2, 3], examples=500)
    )
    bound = np.sqrt(3 / D)
    for who in ("student", "teacher"):
        bank = np.asarray(variables["memory"][who])
        assert bound * 0.99 < np.abs(bank).max() <= bound
        np.testing.assert_allclose(bank.std(), bound / np.sqrt(3), rtol=0.03)
    assert not np.array_equal(variables["memory"]["student"], variables["memory"]["teacher"])


def test_both_projections_learn_and_negatives_change_with_the_key():
    method, s, t = distiller.create("CRD", **OPTIONS), outputs(0, 5), outputs(1, 7)
    variables = jax.jit(method.init)(jax.random.key(3), s, t, batch([0, 1, 2, 3]))

    @jax.jit
    def run(params, key):
        memory = variables["memory"]
        return method.apply({"params": params, "memory": memory}, s, t, batch([0, 1, 2, 3]), rngs={"method": key})[0]

    gradient = jax.grad(run)(variables["params"], jax.random.key(0))
    assert all(np.abs(g).max() > 1e-3 for g in jax.tree.leaves(gradient))
    losses = [float(run(variables["params"], jax.random.key(i))) for i in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]


def sizes(jaxpr):
    """Numbers in every array that a program makes, its inner programs included."""
    for equation in jaxpr.eqns:
        yield from (v.aval.size for v in equation.outvars)
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            if hasattr(inner, "jaxpr") or hasattr(inner, "eqns"):
                yield from sizes(getattr(inner, "jaxpr", inner))


def test_no_array_is_larger_than_the_memories_or_the_scores():
    """At the paper's numbers a gather of [B, K, D] would be 64 * 16384 * 128 = 134 million numbers."""
    rows, examples = 64, 50000
    method = distiller.create("CRD")
    image = jax.ShapeDtypeStruct((rows, 1, 1, 1), jnp.float32)
    integers = jax.ShapeDtypeStruct((rows,), jnp.int32)
    example = data.Batch(image, integers, integers, jax.ShapeDtypeStruct((), jnp.float32), examples=examples)
    networks = [
        Outputs(
            jax.ShapeDtypeStruct((rows, 100), jnp.float32), {"embedding": jax.ShapeDtypeStruct((rows, d), jnp.float32)}
        )
        for d in (64, 256)
    ]
    variables = jax.eval_shape(method.init, jax.random.key(0), *networks, example)

    def loss(student, teacher, variables, example):
        return method.apply(variables, student, teacher, example, rngs={"method": jax.random.key(0)}, mutable="memory")[
            0
        ]

    gradient = jax.grad(lambda *arguments: loss(*arguments)[0])
    largest = max(sizes(jax.make_jaxpr(gradient)(*networks, variables, example).jaxpr))
    assert examples * 128 <= largest < 2 * examples * 128
