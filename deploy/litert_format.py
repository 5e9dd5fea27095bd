"""LiteRT (.tflite): a file for phones and small devices, made from StableHLO by Google's converter.

The converter and the runtime need other versions of packages than this library. So the first export makes an
environment for them in the user's cache folder. A file takes one image a call: files for any number of images are 4 to
75 times as slow, and some networks cannot be converted so.

Quantised weights with a range for each image become integers (`litert_integers.py`). Kernels with fixed ranges exist,
too; these also round what a layer returns, which the training does not.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence

import jax
import numpy as np

from data.decoded import cache_folder
from deploy.graph import Graph
from deploy.targets import BATCHES, Measured, Runner, Target
from models import quantization
from registry import UserError

PACKAGES = ("litert-converter==0.5.0", "ai-edge-litert==2.3.0")
SIZE = "460 MB"  # of the environment
READY = "packages.txt"  # written last


class LiteRT(Target):
    """LiteRT, checked with ai-edge-litert on the CPU, one thread."""

    batch = 1
    images = 4096  # a call starts a process
    integers = "image"
    arithmetic = "integer"

    def write(self, graph: Graph) -> bytes:
        images = jax.ShapeDtypeStruct((self.batch, *graph.shape), graph.dtype)
        text = jax.jit(graph.function).lower(images).as_text()
        with tempfile.TemporaryDirectory() as folder:
            source, target = pathlib.Path(folder, "network.mlir"), pathlib.Path(folder, "network.tflite")
            source.write_text(text)
            _tool("convert", source, target, graph.input, ",".join(graph.outputs))
            if graph.bits:
                layers = pathlib.Path(folder, "layers.npz")
                np.savez(layers, **_stored(graph))
                _tool("quantise", target, target, layers)
            return target.read_bytes()

    def open(self, content: bytes, graph: Graph) -> Runner:
        def run(images):
            outputs = self._run(content, graph, images, ()).outputs
            return [outputs[name] for name in graph.outputs]

        return run

    def runtime(self) -> str:
        return f"{PACKAGES[1].replace('==', ' ')}, CPU, one thread, one image a call"

    def measure(self, content: bytes, graph: Graph, images: np.ndarray) -> Measured:
        return self._run(content, graph, images, BATCHES)

    def _run(self, content: bytes, graph: Graph, images: np.ndarray, timed: Sequence[int]) -> Measured:
        """Runs the file on images, and measures the time of calls with so many images."""
        with tempfile.TemporaryDirectory() as folder:
            file, given, found = (pathlib.Path(folder, name) for name in ("network.tflite", "in.npz", "out.npz"))
            file.write_bytes(content)
            np.savez(given, images=images)
            _tool("measure", file, given, found, graph.input, ",".join(map(str, timed)))
            with np.load(found) as arrays:
                outputs = {name: arrays[name] for name in graph.outputs}
                times = dict(zip(timed, arrays["milliseconds"].tolist(), strict=True))
        return Measured(outputs, times, self.runtime())


def _stored(graph: Graph) -> dict[str, np.ndarray]:
    """The kernels of a graph as `litert_integers.with_integers` takes them."""
    found = {"bits": np.asarray(graph.bits)}
    for number, (_, kernel, *_) in enumerate(graph.layers):
        integers, scales = quantization.integer_weights(kernel, graph.bits)
        found |= {f"kernel{number}": kernel, f"integers{number}": integers.astype(np.int8), f"scales{number}": scales}
    return found


def folder() -> pathlib.Path:
    """The folder of the environment, which may not exist yet."""
    return cache_folder("litert")


def is_ready() -> bool:
    """Whether the environment exists, with `PACKAGES`."""
    ready = folder() / READY
    return ready.is_file() and ready.read_text().split() == list(PACKAGES)


def environment() -> pathlib.Path:
    """The environment's interpreter. Makes the environment where it does not exist.

    Raises:
        UserError: the packages cannot be installed.
    """
    root = folder()
    python = root / "bin" / "python"
    if is_ready():
        return python
    print(
        f"LiteRT needs other versions of packages than this library: making an environment for it in {root} ({SIZE}).",
        file=sys.stderr,
        flush=True,
    )
    shutil.rmtree(root, ignore_errors=True)
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES]
    for command in ([sys.executable, "-m", "venv", root], install):
        result = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        if result.returncode:
            raise UserError(f"Cannot make the environment for LiteRT: {_last(result)}\nIts folder: {root}")
    (root / READY).write_text("\n".join(PACKAGES))
    return python


def _tool(*words) -> None:
    """Runs `litert_tool.py` in the environment."""
    tool = pathlib.Path(__file__).with_name("litert_tool.py")
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    result = subprocess.run([str(environment()), str(tool), *map(str, words)], capture_output=True, text=True, env=own)
    if result.returncode:
        raise UserError(
            f"LiteRT cannot {words[0]} this network: {_last(result)}\nTake another format: --to onnx or stablehlo."
        )


def _last(result: subprocess.CompletedProcess) -> str:
    """The last line that a process wrote, or its exit code."""
    lines = [line for line in (result.stderr or result.stdout).splitlines() if line.strip()]
    return lines[-1][:300] if lines else f"exit code {result.returncode}"
