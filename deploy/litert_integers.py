"""Integers in a LiteRT file. Runs in the environment of LiteRT, which has none of this library's packages.

A layer has a kernel of integers, a scale for each channel, and an input of float32. LiteRT calls this a hybrid
operation: its CPU kernels round the input to 8 bits by the range of each image, multiply integers, and return float32.
Kernels of depthwise convolutions have no form of 4 bits; their integers of 4 bits are stored in 8.
"""

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

# operation -> (axes of the library's kernel in LiteRT's order, the axis of the channels there)
LAYERS = {
    schema.BuiltinOperator.CONV_2D: ((3, 0, 1, 2), 0),
    schema.BuiltinOperator.DEPTHWISE_CONV_2D: ((2, 0, 1, 3), 3),
    schema.BuiltinOperator.FULLY_CONNECTED: ((1, 0), 0),
}
HALVES = (schema.BuiltinOperator.CONV_2D, schema.BuiltinOperator.FULLY_CONNECTED)  # have kernels of 4 bits


def with_integers(content: bytes, layers: dict[str, np.ndarray]) -> bytes:
    """The .tflite file of a float network, its kernels stored as integers.

    Args:
        content: the file.
        layers: "kernel0" float32 as the library has it, "integers0" int8, "scales0" [channels] float32, "kernel1", ...,
            in the order of the forward pass; "bits": 8 or 4.

    Raises:
        ValueError: the file's operations that multiply are not these layers.
    """
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    (graph,) = model.subgraphs
    codes = [code.builtinCode for code in model.operatorCodes]
    steps = [(codes[step.opcodeIndex], step) for step in graph.operators if codes[step.opcodeIndex] in LAYERS]
    count = sum(name.startswith("kernel") for name in layers)
    if len(steps) != count:
        raise ValueError(f"the file multiplies {len(steps)} times; the network has {count} layers")
    for number, (code, step) in enumerate(steps):
        (order, axis), tensor = LAYERS[code], graph.tensors[step.inputs[1]]
        kernel, integers, scales = (layers[f"{name}{number}"] for name in ("kernel", "integers", "scales"))
        stored = model.buffers[tensor.buffer].data
        if stored is None or kernel.ndim != len(order) or kernel.transpose(order).tobytes() != stored.tobytes():
            raise ValueError(f"multiplication number {number} does not have the kernel of layer number {number}")
        halves = layers["bits"] == 4 and code in HALVES
        tensor.type = schema.TensorType.INT4 if halves else schema.TensorType.INT8
        tensor.quantization = schema.QuantizationParametersT()
        tensor.quantization.scale, tensor.quantization.quantizedDimension = scales, axis
        tensor.quantization.zeroPoint = np.zeros(len(scales), np.int64)
        if code == schema.BuiltinOperator.FULLY_CONNECTED:
            step.builtinOptions.asymmetricQuantizeInputs = True
        tensor.buffer = len(model.buffers)  # another layer may read the old one
        model.buffers.append(schema.BufferT())
        model.buffers[-1].data = _bytes(integers.transpose(order), halves)
    used = {tensor.buffer for tensor in graph.tensors} | {each.buffer for each in model.metadata or ()}
    for number, buffer in enumerate(model.buffers):
        buffer.data = buffer.data if number in used else None
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _bytes(integers: np.ndarray, halves: bool) -> np.ndarray:
    """int8 as bytes; `halves`: two in a byte, the first in the low half."""
    flat = np.ascontiguousarray(integers, np.int8).reshape(-1).view(np.uint8)
    if not halves:
        return flat
    flat = np.resize(flat & 15, -(-flat.size // 2) * 2)
    return flat[::2] | flat[1::2] << 4
