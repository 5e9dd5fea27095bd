"""The CPU's words do what they are for in compiled programs, and XLA:CPU computes right numbers."""

import importlib.metadata
import os
import re
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import layers, ops, xla_cpu
from models.resnet import BasicBlock
from models.xla_cpu.convolution import pixels_a_row

DRAWN = np.random.RandomState(0).standard_normal((5, 60, 60)).astype(np.float32)
ROWS = np.stack([np.arange(32_769), np.zeros(32_769), np.zeros(32_769)], 1).astype(np.float32)


def compiled(function, *arrays) -> str:
    """The program's text after XLA:CPU's optimisations."""
    with jax.default_device(jax.devices("cpu")[0]):
        return jax.jit(function).lower(*arrays).compile().as_text()


def test_what_is_stored_keeps_its_bits():
    for dtype in (jnp.float32, jnp.bfloat16):
        x = jnp.asarray(DRAWN, dtype)
        value, pullback = jax.vjp(jax.jit(lambda x: ops.STORED(x, when="training")), x)
        assert (value == x).all()
        assert (pullback(x)[0] == x).all()


def test_what_is_kept_keeps_its_bits_and_stays_infinite():
    for dtype in (jnp.float32, jnp.bfloat16):
        x = jnp.asarray([-0.0, 0.0, 1.2e-38, -3e38, *DRAWN[0, 0]], dtype)
        assert jax.jit(ops.kept)(x).tobytes() == x.tobytes()
        strange = jnp.asarray([jnp.inf, -jnp.inf, jnp.nan], dtype)
        assert not jnp.isfinite(jax.jit(ops.kept)(strange)).any()


@pytest.mark.parametrize("train", [False, True])
def test_a_residual_stream_is_not_added_up_anew_in_each_block(train):
    """No fused loop reads more than the six arrays of one block: a convolution, its batch norm and what came before."""
    blocks = [BasicBlock(8) for _ in range(4)]
    x = jnp.ones((2, 8, 8, 8))
    variables = jax.eval_shape(lambda key, x: blocks[0].init(key, x, False), jax.random.key(0), x)

    def stream(all_variables, x):
        for block, its in zip(blocks, all_variables, strict=True):
            x = block.apply(its, x, train, mutable=["batch_stats"])[0]
        return x

    text = compiled(stream, [variables] * 4, x)
    entry = text[text.index("ENTRY") :]
    read = [len(found.split(",")) for found in re.findall(r" fusion\(([^)]*)\), kind", entry)]
    assert read
    assert max(read) <= 6


def test_xla_keeps_the_divisions_by_one():
    def loss(kernel, x):
        y = nn.relu(layers.Conv(5, 3).apply({"params": {"kernel": kernel}}, x))
        return jnp.sum(layers.Conv(5, 3).apply({"params": {"kernel": kernel}}, y) ** 2)

    arguments = jax.grad(loss), jnp.ones((3, 3, 5, 5)), jnp.ones((6, 4, 3, 5))
    with ops.plain():
        plain = compiled(*arguments).count(" divide(")
    assert compiled(*arguments).count(" divide(") > plain


@pytest.mark.parametrize("batch", [16, 32, 64])
def test_no_loop_sums_a_large_array_over_two_axes(batch):
    shape = (batch, 16, 16, 256)

    def loss(x, c):
        return jnp.sum(jnp.sin((x - ops.mean(x)) * ops.spread(c, shape)))

    arrays = [jax.ShapeDtypeStruct(its, jnp.float32) for its in (shape, shape[-1:])]
    text = compiled(jax.grad(loss, 1), *arrays)
    size, found = re.escape(f"f32[{','.join(map(str, shape))}]"), 0
    for computation in text.split("\n\n"):
        found += bool(re.search(size, computation))
        assert computation.startswith("ENTRY") or not re.search(size, computation) or computation.count(" reduce(") < 2
    assert found


@pytest.mark.parametrize("batch", [32, 64])
def test_a_mean_over_many_pixels_loses_no_digits(batch):
    x = 100 + np.random.RandomState(0).standard_normal((batch, 32, 32, 4)).astype(np.float32)
    expected = np.mean(x.astype(np.float64), (0, 1, 2))
    np.testing.assert_allclose(jax.jit(ops.mean)(x), expected, rtol=3e-7)


@pytest.mark.parametrize(
    ("channels", "features", "columns", "pixels"),
    [
        *[(3, 16, 32, 4), (64, 3, 32, 4), (3, 16, 6, 2), (3, 16, 7, 1), (16, 16, 32, 2), (24, 24, 32, 2)],
        *[(25, 25, 32, 1), (16, 32, 32, 1), (32, 16, 32, 1), (64, 64, 8, 1)],
    ],
)
def test_so_many_pixels_share_a_row(channels, features, columns, pixels):
    assert pixels_a_row((2, 5, columns, channels), (3, 3, channels, features)) == pixels
    assert pixels_a_row((2, 5, columns, channels), (1, 1, channels, features)) == 1


def test_no_derivative_of_a_narrow_convolution_dilates_an_image():
    """XLA:CPU has no fast convolution of dilated inputs, and JAX would derive one from `convolve_rows`."""

    def loss(x, kernel):
        return jnp.sum(jnp.sin(ops.convolve(x, kernel)))

    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((2, 5, 8, 16), (3, 3, 16, 16))]
    text = jax.jit(jax.grad(loss, (0, 1))).trace(*shapes).lower(lowering_platforms=("cpu",)).as_text()
    assert text.count("stablehlo.convolution") == 3  # forward, by the input and by the kernel
    assert text.count("hs_dilate = [1, 1]") == 6
    assert text.count("stride = [1, 2]") == 2  # two pixels in a row: forward and by the input


WRONG_ELSEWHERE = {
    "product with one number": (lambda a: jnp.sum((a @ jnp.full_like(a, a[0, 0])) * a), DRAWN[0]),
    "product with a number each": (
        lambda a: jnp.sum((a @ jnp.zeros_like(a) + a[:, :1, :1] @ a[:, :1]) * a, (1, 2)),
        DRAWN,
    ),
    "products with one number": (
        lambda a: jnp.sum((a @ jnp.broadcast_to(a[:, :1, :1], a.shape)) * a, (1, 2)),
        DRAWN,
    ),
    "rows squared and summed": (lambda x: jax.vmap(lambda row: jnp.sum((jnp.eye(3) @ row) ** 2))(x), ROWS),
}


@pytest.mark.parametrize("name", WRONG_ELSEWHERE)
@pytest.mark.parametrize("options", [None, xla_cpu.COMPILER_OPTIONS], ids=["process", "program"])
def test_compiled_programs_give_the_numbers_of_single_operations(name, options):
    function, x = WRONG_ELSEWHERE[name]
    expected = np.asarray(function(x))
    found = jax.jit(function, compiler_options=options)(x)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("before", "jaxlib", "after"),
    [
        ("", "0.12.0.1", xla_cpu.FLAG),
        ("--other=1", "0.10.2", f"--other=1 {xla_cpu.FLAG}"),
        ("--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_DOT", "0.10.2", None),
        ("", "0.9.2", None),
        ("", "1.0.0", None),
    ],
)
def test_the_flag_is_set_where_it_is_known_and_not_set(before, jaxlib, after, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", before)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: jaxlib)
    monkeypatch.setitem(sys.modules, "jax._src.xla_bridge", None)  # as if JAX had not started
    xla_cpu.prepare()
    assert os.environ["XLA_FLAGS"] == (before if after is None else after)


@pytest.mark.slow
def test_a_library_user_gets_right_numbers_or_a_warning():
    """An import sets nothing; `models.create` sets the flag, and warns once if JAX has started before."""
    program = """
import os, warnings, jax, models
assert "XLA_FLAGS" not in os.environ
if {late}: jax.numpy.ones(1).block_until_ready()
for _ in range(2): models.create("CNN", 2)
assert models.xla_cpu.FLAG in os.environ["XLA_FLAGS"]
"""
    environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    for late in (True, False):
        done = subprocess.run(
            [sys.executable, "-c", program.format(late=late)],
            env={**environment, "JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stderr.count("export XLA_FLAGS=") == late, done.stderr
