"""Integers in an ONNX file: every layer rounds its input and stores its kernel as integers (QuantizeLinear and back).

A runtime with kernels for integers multiplies the integers. The others compute with the numbers that these stand for.
"""

import numpy as np

from deploy.graph import Graph
from models import quantization
from registry import UserError

MULTIPLY = ("Conv", "Gemm", "MatMul")


def with_integers(content: bytes, graph: Graph) -> bytes:
    """The ONNX file of a float network, quantised as `models.quantization` says.

    Args:
        content: the file, made from `graph`.
        graph: has `layers`.

    Raises:
        UserError: the nodes of the file that multiply are not these layers.
    """
    import onnx

    model = onnx.load_from_string(content)
    made, constants = ({name: x for x, name in found} for found in _named(model.graph))
    nodes, before = [node for node in model.graph.node if node.op_type in MULTIPLY], {}
    if len(nodes) != len(graph.layers):
        raise UserError(f"The ONNX file multiplies {len(nodes)} times; the network has {len(graph.layers)} layers.")
    for number, (node, (name, kernel, *ends)) in enumerate(zip(nodes, graph.layers, strict=True)):
        source = made[node.input[1]].input[0] if node.input[1] in made else node.input[1]  # behind a Transpose
        if source not in constants or not np.array_equal(onnx.numpy_helper.to_array(constants[source]), kernel):
            raise UserError(f"The ONNX file's {node.op_type} number {number} does not have the kernel of {name}.")
        before[node.output[0]] = _rounded(model.graph, node, f"layer{number}", kernel, ends, graph.bits)
    _replace(model.graph.node, [step for node in model.graph.node for step in (*before.get(node.output[0], ()), node)])
    _replace(model.graph.node, [x for x in model.graph.node if set(x.output) & _read(model.graph)])
    _replace(model.graph.initializer, [x for x in model.graph.initializer if x.name in _read(model.graph)])
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _rounded(graph, node, name: str, kernel: np.ndarray, ends: list, bits: int) -> list:
    """The nodes in front of `node` that round its input and its kernel; their constants are added to `graph`."""
    from onnx import TensorProto, helper

    conv = node.op_type == "Conv"
    integers, scales = (np.asarray(x) for x in quantization.integer_weights(kernel, bits))
    integers = integers.transpose(3, 2, 0, 1) if conv else integers  # to [outputs, inputs, size, size]
    kind = TensorProto.INT8 if bits == 8 else TensorProto.INT4

    def constant(what, kind, values):
        values = np.asarray(values)
        content = values.astype({TensorProto.FLOAT: "<f4", TensorProto.UINT8: np.uint8}.get(kind, np.int8)).tobytes()
        if kind == TensorProto.INT4:  # two in a byte, the first in the low half
            halves = np.resize(np.frombuffer(content, np.uint8) & 15, -(-values.size // 2) * 2)
            content = (halves[::2] | halves[1::2] << 4).tobytes()
        graph.initializer.append(helper.make_tensor(f"{name}_{what}", kind, values.shape, content, raw=True))
        return f"{name}_{what}"

    scale, zero = quantization.input_scale(*ends)
    of_input = constant("scale", TensorProto.FLOAT, scale), constant("zero", TensorProto.UINT8, zero)
    stored = constant("integers", kind, integers), constant("scales", TensorProto.FLOAT, scales)
    stored += (constant("zeros", kind, np.zeros(scales.shape)),)
    steps = [
        helper.make_node("QuantizeLinear", [node.input[0], *of_input], [f"{name}_input"]),
        helper.make_node("DequantizeLinear", [f"{name}_input", *of_input], [f"{name}_rounded"]),
        helper.make_node("DequantizeLinear", stored, [f"{name}_kernel"], axis=0 if conv else 1),
    ]
    node.input[0], node.input[1] = f"{name}_rounded", f"{name}_kernel"
    return steps


def _named(graph) -> tuple[list, list]:
    """([(node, its first output)], [(constant, its name)])."""
    return [(node, node.output[0]) for node in graph.node], [(x, x.name) for x in graph.initializer]


def _read(graph) -> set[str]:
    """The names that nodes read or the graph returns."""
    return {name for node in graph.node for name in node.input} | {output.name for output in graph.output}


def _replace(field, values: list) -> None:
    """Sets a repeated field of a message."""
    copies = [type(value).FromString(value.SerializeToString()) for value in values]
    del field[:]
    field.extend(copies)
