"""What a CPU computes in other words is what was meant: values, first and second derivatives, many at once."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import layers
from models.resnet import BasicBlock

X = np.random.RandomState(0).standard_normal((6, 4, 3, 5)).astype(np.float32)
C = np.random.RandomState(1).standard_normal(5).astype(np.float32)
PAIRS = {
    "mean": (lambda x, c: layers.mean_of_channels(x), lambda x, c: jnp.mean(x, (0, 1, 2))),
    "to all pixels": (lambda x, c: x * layers.to_all_pixels(c, x.shape), lambda x, c: x * c),
    "stored": (lambda x, c: layers.stored(x * x), lambda x, c: x * x),
    "kept": (lambda x, c: layers.kept(x * x), lambda x, c: x * x),
}


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("rank", [2, 4])
@pytest.mark.parametrize(("cpu", "product"), [(True, False), (True, True), (False, False)])
def test_same_values_and_derivatives(name, rank, cpu, product, monkeypatch):
    monkeypatch.setattr(layers, "on_cpu", lambda: cpu)
    monkeypatch.setattr(layers, "_by_product", lambda shape: product)
    x = X if rank == 4 else X.reshape(-1, 5)
    plain = PAIRS[name][1] if rank == 4 or name != "mean" else lambda x, c: jnp.mean(x, 0)

    def numbers(function):
        def loss(x, c):
            return jnp.sum(jnp.sin(function(x, c)))

        def steep(x, c):
            return sum(jnp.sum(g * g) for g in jax.grad(loss, (0, 1))(x, c))

        many = jax.vmap(function)(jnp.stack([x, 2 * x]), jnp.stack([C, -C]))
        change = jax.jvp(function, (x, C), (jnp.ones_like(x), C))[1]
        return function(x, C), jax.grad(loss, (0, 1))(x, C), jax.grad(steep, (0, 1))(x, C), many, change

    found, expected = jax.jit(lambda: numbers(PAIRS[name][0]))(), numbers(plain)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert np.linalg.norm(one - other) <= 1e-6 * np.linalg.norm(other)  # sums of a channel may nearly cancel


def test_what_is_stored_keeps_its_bits():
    for dtype in (jnp.float32, jnp.bfloat16):
        x = jnp.asarray(X, dtype)
        value, pullback = jax.vjp(jax.jit(layers.stored), x)
        assert (value == x).all()
        assert (pullback(x)[0] == x).all()


def test_what_is_kept_keeps_its_bits_or_is_seen_not_to_be_finite():
    for dtype in (jnp.float32, jnp.bfloat16):
        x = jnp.asarray([-0.0, 0.0, 1.2e-38, -3e38, *X.flat], dtype)
        assert jax.jit(layers.kept)(x).tobytes() == x.tobytes()
        strange = jnp.asarray([jnp.inf, -jnp.inf, jnp.nan], dtype)
        assert not jnp.isfinite(jax.jit(layers.kept)(strange)).any()


@pytest.mark.parametrize("train", [False, True])
def test_a_residual_stream_is_not_added_up_anew_in_each_block(train, monkeypatch):
    """No fused loop reads more than the six arrays of one block: a convolution, its batch norm and what came before."""
    monkeypatch.setattr(layers, "on_cpu", lambda: True)
    blocks = [BasicBlock(8) for _ in range(4)]
    x = jnp.ones((2, 8, 8, 8))
    variables = blocks[0].init(jax.random.key(0), x, False)

    def stream(all_variables, x):
        for block, its in zip(blocks, all_variables, strict=True):
            x = block.apply(its, x, train, mutable=["batch_stats"])[0]
        return x

    with jax.default_device(jax.devices("cpu")[0]):
        text = jax.jit(stream).lower([variables] * 4, x).compile().as_text()
    entry = text[text.index("ENTRY") :]
    read = [len(found.split(",")) for found in re.findall(r" fusion\(([^)]*)\), kind", entry)]
    assert read
    assert max(read) <= 6


def test_xla_keeps_the_divisions_by_one(monkeypatch):
    monkeypatch.setattr(layers, "on_cpu", lambda: True)

    def divisions():
        def loss(kernel, x):
            y = nn.relu(layers.Conv(5, 3).apply({"params": {"kernel": kernel}}, x))
            return jnp.sum(layers.Conv(5, 3).apply({"params": {"kernel": kernel}}, y) ** 2)

        with jax.default_device(jax.devices("cpu")[0]):
            program = jax.jit(jax.grad(loss)).lower(jnp.ones((3, 3, 5, 5)), X).compile()
        return program.as_text().count(" divide(")

    kept = divisions()
    monkeypatch.setattr(layers, "stored", lambda x: x)
    assert kept > divisions()


@pytest.mark.parametrize("batch", [16, 32, 64])
def test_no_loop_sums_a_large_array_over_two_axes(batch, monkeypatch):
    monkeypatch.setattr(layers, "on_cpu", lambda: True)
    shape = (batch, 16, 16, 256)

    def loss(x, c):
        return jnp.sum(jnp.sin((x - layers.mean_of_channels(x)) * layers.to_all_pixels(c, shape)))

    with jax.default_device(jax.devices("cpu")[0]):
        arrays = [jax.ShapeDtypeStruct(its, jnp.float32) for its in (shape, shape[-1:])]
        text = jax.jit(jax.grad(loss, 1)).lower(*arrays).compile().as_text()
    size, found = re.escape(f"f32[{','.join(map(str, shape))}]"), 0
    for computation in text.split("\n\n"):
        found += bool(re.search(size, computation))
        assert computation.startswith("ENTRY") or not re.search(size, computation) or computation.count(" reduce(") < 2
    assert found


@pytest.mark.parametrize("batch", [32, 64])
def test_a_mean_over_many_pixels_loses_no_digits(batch):
    x = 100 + np.random.RandomState(0).standard_normal((batch, 32, 32, 4)).astype(np.float32)
    expected = np.mean(x.astype(np.float64), (0, 1, 2))
    np.testing.assert_allclose(jax.jit(layers.mean_of_channels)(x), expected, rtol=3e-7)
