"""ONNX: a file for onnxruntime, browsers and many other runtimes, made by jax2onnx."""

import collections
import contextlib
import importlib
import logging
import warnings

import jax

from deploy.graph import Graph
from deploy.qdq import with_integers
from deploy.targets import Runner, Target
from registry import UserError

OPSET = 21  # older opsets give invalid files; few browsers know newer ones


class Onnx(Target):
    """ONNX, checked with onnxruntime on the CPU."""

    integers = "fixed"
    arithmetic = "stored as integers, multiplied as float32"

    def write(self, graph: Graph) -> bytes:
        with _quiet():
            convert = _package("jax2onnx").to_onnx
            spec = jax.ShapeDtypeStruct(("B", *graph.shape), graph.dtype)
            try:
                model = convert(
                    graph.function,
                    [spec],
                    model_name="network",
                    opset=OPSET,
                    input_names=[graph.input],
                    output_names=list(graph.outputs),
                )
            except Exception as error:  # jax2onnx raises many kinds for what it cannot express
                text = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
                raise UserError(
                    f"jax2onnx cannot express this network: {text}\nTake another format: --to stablehlo."
                ) from error
        _clip(model.graph)
        content = model.SerializeToString()
        return with_integers(content, graph) if graph.layers else content

    def open(self, content: bytes, graph: Graph) -> Runner:
        session = _package("onnxruntime").InferenceSession(content, providers=["CPUExecutionProvider"])
        return lambda images: session.run(list(graph.outputs), {graph.input: images})

    def runtime(self) -> str:
        return f"onnxruntime {_package('onnxruntime').__version__}, CPU"


def _package(name: str):
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"ONNX needs packages: {error}.\nInstall them: pip install --no-deps -r requirements-export.txt"
        ) from None


def _clip(graph) -> None:
    """Turns every min(max(x, low), high) into a Clip. Runtimes fuse a Clip (ReLU6) into the convolution before it."""
    scalars = {value.name for value in graph.initializer if not value.dims}
    readers = collections.Counter(name for node in graph.node for name in node.input)
    lower = {node.output[0]: node for node in graph.node if node.op_type == "Max"}
    for node in list(graph.node):
        inside = [lower[name] for name in node.input if name in lower and readers[name] == 1]
        if node.op_type != "Min" or not inside:
            continue
        (low, x), (high, _) = (sorted(each.input, key=lambda name: name not in scalars) for each in (*inside, node))
        if {low, high} <= scalars:
            node.op_type, node.input[:] = "Clip", [x, low, high]
            graph.node.remove(inside[0])


@contextlib.contextmanager
def _quiet():
    """No warnings of jax2onnx: on import about packages for other networks, later about shapes that are unknown."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(before)
