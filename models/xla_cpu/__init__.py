"""XLA:CPU: functions for the operations of `models.ops`, and a flag without which XLA computes wrong numbers.

`README.md` in this folder lists every trick with the problem, the gain and the measurement.
"""

import importlib.metadata
import os
import sys
import warnings

from models import ops
from models.xla_cpu import convolution, memory, sums

FLAG = "--xla_cpu_experimental_ynn_fusion_type="
COMPILER_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": ""}  # for one program: jax.jit(f, compiler_options=...)
JAXLIB = ("0.10.1", "0.10.2", "0.11.", "0.12.")  # versions that know the flag; with it, others end the process


def prepare() -> None:
    """Switches off XLA:CPU's fusions into YNNPACK, which compute wrong numbers: appends `FLAG` to XLA_FLAGS.

    `jnp.sum((a @ jnp.broadcast_to(c, a.shape)) * a)` under `jax.jit` is NaN, or 1e27 times the right number, with
    jaxlib 0.10.2 and 0.12.0.1. In 0.10.2 a matrix product that is squared and summed loses rows
    (https://github.com/jax-ml/jax/issues/39103). JAX reads XLA_FLAGS at its first computation. The command lines and
    `models.create` call this function. It changes nothing if XLA_FLAGS sets the option already, or if jaxlib
    is of another version than `JAXLIB`.

    Warns:
        JAX has started on a CPU without the flag.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if "ynn_fusion" in flags or not importlib.metadata.version("jaxlib").startswith(JAXLIB):
        return
    os.environ["XLA_FLAGS"] = f"{flags} {FLAG}".strip()
    bridge = sys.modules.get("jax._src.xla_bridge")
    if getattr(bridge, "backends_are_initialized", bool)() and sys.modules["jax"].default_backend() == "cpu":
        warnings.warn(
            f"JAX started without {FLAG} in XLA_FLAGS: on a CPU, results of jax.jit may be wrong. "
            "Call `models.xla_cpu.prepare()` before the first computation, or type:\n"
            f"    export XLA_FLAGS='{os.environ['XLA_FLAGS']}'",
            stacklevel=3,
        )


ops.CONVOLUTION.words("cpu", convolution.convolution)
ops.SUM.words("cpu", sums.sum_over_pixels)
ops.STORED.words("cpu", memory.stored)
