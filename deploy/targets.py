"""The formats that a network is exported to. Each is a class in a file of its own."""

import abc
import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from deploy.clock import latency
from deploy.graph import Graph
from models import quantization
from registry import Registry

BATCHES = (1, 32)  # images of a call whose time is measured
Runner = Callable[[np.ndarray], Sequence[np.ndarray]]

registry = Registry(
    "format",
    {
        "onnx": "deploy.onnx_format:Onnx",
        "stablehlo": "deploy.stablehlo_format:StableHLO",
        "litert": "deploy.litert_format:LiteRT",
        "torch": "deploy.torch_format:Torch",
    },
)


@dataclasses.dataclass(frozen=True)
class Measured:
    """What a file's own runtime says.

    Attributes:
        outputs: name -> array [N, ...] float32.
        milliseconds: images of a call -> the call's median time.
        runtime: its name, version and device.
    """

    outputs: dict[str, np.ndarray]
    milliseconds: dict[int, float]
    runtime: str


class Target(abc.ABC):
    """A format of files.

    Attributes:
        plain: whether the format has JAX's own operations alone (`deploy.graph.build`).
        batch: how many images one call of the network takes; 0: any number.
        images: how many images the function of `open` gets at once, if a whole split is measured.
        integers: which ranges of inputs quantised weights must have so that the file stores integers: "fixed" or
            "image" (a range for each image); empty: the format has float32 alone.
        arithmetic: how the runtime computes with the file of quantised weights, for `quantization.arithmetic`.
        tolerance: the largest difference of an output from the library's, in units of the output's largest absolute
            value; then, of quantised weights, in which a number at the border of two integers may go either way.
    """

    plain = True
    batch = 0
    images = 64
    integers = ""
    arithmetic = quantization.FAKE
    tolerance = (1e-3, 2e-2)

    @abc.abstractmethod
    def write(self, graph: Graph) -> bytes:
        """The file's content.

        Raises:
            UserError: a package is missing, or the format cannot express the network.
        """

    @abc.abstractmethod
    def open(self, content: bytes, graph: Graph) -> Runner:
        """Loads a file's content into the format's own runtime.

        Returns:
            A function: images [B, *graph.shape] of `graph.dtype` -> arrays in the order of `graph.outputs`.
        """

    @abc.abstractmethod
    def runtime(self) -> str:
        """The name, version and device of the runtime."""

    def measure(self, content: bytes, graph: Graph, images: np.ndarray) -> Measured:
        """Runs a file's content on images [N, *graph.shape] of `graph.dtype`."""
        run = self.open(content, graph)
        outputs = dict(zip(graph.outputs, run(images), strict=True))
        times = {size: latency(run, np.resize(images, (size, *graph.shape))) for size in BATCHES}
        return Measured(outputs, times, self.runtime())
