"""What XLA:CPU computes wrongly with fusions into YNNPACK is right here; the user's own flags are left alone."""

import importlib.metadata
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import xla_cpu

A = np.random.RandomState(0).standard_normal((5, 60, 60)).astype(np.float32)
ROWS = np.stack([np.arange(32_769), np.zeros(32_769), np.zeros(32_769)], 1).astype(np.float32)
WRONG_ELSEWHERE = {
    "product with one number": (lambda a: jnp.sum((a @ jnp.full_like(a, a[0, 0])) * a), A[0]),
    "product with a number each": (lambda a: jnp.sum((a @ jnp.zeros_like(a) + a[:, :1, :1] @ a[:, :1]) * a, (1, 2)), A),
    "products with one number": (lambda a: jnp.sum((a @ jnp.broadcast_to(a[:, :1, :1], a.shape)) * a, (1, 2)), A),
    "rows squared and summed": (lambda x: jax.vmap(lambda row: jnp.sum((jnp.eye(3) @ row) ** 2))(x), ROWS),
}


@pytest.mark.parametrize("name", WRONG_ELSEWHERE)
def test_compiled_programs_say_what_single_operations_say(name):
    function, x = WRONG_ELSEWHERE[name]
    expected = np.asarray(function(x))
    np.testing.assert_allclose(jax.jit(function)(x), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


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
    xla_cpu.switch_off_fusions()
    assert os.environ["XLA_FLAGS"] == (before if after is None else after)


@pytest.mark.parametrize("late", [True, False])
def test_an_import_after_the_first_computation_is_told(late):
    first = "jax.numpy.ones(1).block_until_ready(); " if late else ""
    environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    done = subprocess.run(
        [sys.executable, "-c", f"import jax; {first}import distiller"],
        env={**environment, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ("Import the library first" in done.stderr) == late, done.stderr
