"""XLA:CPU's fusions into YNNPACK are switched off: they compute some programs wrongly, without a word.

Seen with jaxlib 0.10.2 and 0.12.0.1, as they come: `jnp.sum((a @ jnp.broadcast_to(c, a.shape)) * a)` under `jax.jit`
is NaN, or 1e27 times what it should be, and in 0.10.2 a matrix product that is squared and summed loses rows
(https://github.com/jax-ml/jax/issues/39103). Every room imports this module, by way of `registry`; that has to happen
before JAX's first computation.
"""

import importlib.metadata
import os
import sys
import warnings

FLAG = "--xla_cpu_experimental_ynn_fusion_type="
JAXLIB = ("0.10.1", "0.10.2", "0.11.", "0.12.")  # those that know the flag: an XLA that does not ends the process


def switch_off_fusions() -> None:
    """Appends the flag to XLA_FLAGS unless that has it; warns if JAX has read XLA_FLAGS already."""
    flags = os.environ.get("XLA_FLAGS", "")
    if "ynn_fusion" in flags or not importlib.metadata.version("jaxlib").startswith(JAXLIB):
        return
    os.environ["XLA_FLAGS"] = f"{flags} {FLAG}".strip()
    bridge = sys.modules.get("jax._src.xla_bridge")
    if getattr(bridge, "backends_are_initialized", bool)() and sys.modules["jax"].default_backend() == "cpu":
        warnings.warn(
            f"JAX has computed something before this library was imported, so that it has not read {FLAG}: on a CPU, "
            "results of jax.jit may be wrong. Import the library first, or set XLA_FLAGS.",
            stacklevel=2,
        )


switch_off_fusions()
