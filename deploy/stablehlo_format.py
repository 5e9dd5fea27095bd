"""StableHLO: a program for CPU, GPU and TPU that a process with jax alone can run, made by `jax.export`.

The program has the CPU's own forms of operations for CPUs (`models/xla_cpu`), because a plain depthwise convolution is
20 times slower there.
"""

import importlib.util

import jax
import numpy as np
from jax import export

from deploy.graph import Graph
from deploy.targets import Runner, Target
from registry import UserError

PLATFORMS = ("cpu", "cuda", "tpu")


class StableHLO(Target):
    """StableHLO, checked with jax."""

    plain = False
    suppression = True

    def write(self, graph: Graph) -> bytes:
        _check()
        size = ", ".join(map(str, graph.shape))
        images = jax.ShapeDtypeStruct(export.symbolic_shape(f"batch, {size}"), graph.dtype)
        return bytes(export.export(jax.jit(graph.named), platforms=PLATFORMS)(images).serialize())

    def open(self, content: bytes, graph: Graph) -> Runner:
        _check()
        call = jax.jit(export.deserialize(bytearray(content)).call)
        return lambda images: [np.asarray(array) for array in map(call(images).get, graph.outputs)]

    def runtime(self) -> str:
        return f"jax {jax.__version__}, {jax.devices()[0].platform}"


def _check() -> None:
    if importlib.util.find_spec("flatbuffers") is None:
        raise UserError(
            "StableHLO needs the package flatbuffers.\nInstall it: pip install --no-deps -r requirements-export.txt"
        )
