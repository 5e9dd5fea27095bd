"""PyTorch: an exported program (`.pt2`) for processes that have torch alone.

The network's ONNX graph becomes a torch module, node by node, and `torch.export` makes the file. The graph computes
shapes from the number of images; these numbers stay Python's own, so that the file takes any number of images.
"""

import io
import operator

import numpy as np

from deploy.graph import Graph
from deploy.onnx_format import Onnx
from deploy.targets import Runner, Target
from registry import UserError

try:
    import torch
    from torch.nn import functional as F
except ImportError as error:
    raise UserError(f"--to torch needs PyTorch: {error}.\nInstall it: pip install 'kd-cookbook[torch]'") from None


class Torch(Target):
    """A program of PyTorch, checked with torch on the CPU."""

    def write(self, graph: Graph) -> bytes:
        module = Network(Onnx().write(graph))
        example = torch.zeros((2, *graph.shape), dtype=getattr(torch, graph.dtype))
        with torch.no_grad():
            program = torch.export.export(module, (example,), dynamic_shapes={"images": {0: torch.export.Dim("batch")}})
        file = io.BytesIO()
        torch.export.save(program, file)
        return file.getvalue()

    def open(self, content: bytes, graph: Graph) -> Runner:
        call = torch.export.load(io.BytesIO(content)).module()

        def run(images):
            with torch.no_grad():
                return [array.numpy() for array in call(torch.from_numpy(images))]

        return run

    def runtime(self) -> str:
        return f"torch {torch.__version__}, CPU"


class Network(torch.nn.Module):
    """The module of an ONNX graph. Floats are tensors; whole numbers and the values of padding are Python's.

    Args:
        content: an ONNX file of `Onnx.write`.

    Raises:
        UserError: the graph has an operation that is not among `OPERATIONS`.
    """

    def __init__(self, content: bytes):
        import onnx

        super().__init__()
        graph = onnx.load_from_string(content).graph
        self.nodes, self.numbers, self.tensors = [], {"": None}, {}
        padding = {node.input[2] for node in graph.node if node.op_type == "Pad" and len(node.input) > 2}
        for value in graph.initializer:
            array = onnx.numpy_helper.to_array(value)
            if np.issubdtype(array.dtype, np.floating) and value.name not in padding:
                self.tensors[value.name] = f"tensor{len(self.tensors)}"
                self.register_buffer(self.tensors[value.name], torch.from_numpy(array.copy()))
            else:
                self.numbers[value.name] = array.tolist()
        for node in graph.node:
            if node.op_type not in OPERATIONS:
                raise UserError(f"--to torch does not know ONNX's {node.op_type}.\nTake another format: --to onnx.")
            attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
            attributes = {name: x.decode() if isinstance(x, bytes) else x for name, x in attributes.items()}
            self.nodes.append((OPERATIONS[node.op_type], attributes, list(node.input), node.output[0]))
        self.outputs = [value.name for value in graph.output]
        (self.input,) = (value.name for value in graph.input)

    def forward(self, images):
        values = {**self.numbers, self.input: images}
        values |= {name: getattr(self, own) for name, own in self.tensors.items()}
        for operation, attributes, inputs, output in self.nodes:
            values[output] = operation(*(values[name] for name in inputs), **attributes)
        return tuple(values[name] for name in self.outputs)


def _cast(x, to):
    import onnx

    return x.to(torch.from_numpy(np.zeros(0, onnx.helper.tensor_dtype_to_np_dtype(to))).dtype)


def _concat(*parts, axis):
    return [n for part in parts for n in part] if isinstance(parts[0], list) else torch.cat(parts, axis)


def _conv(x, kernel, bias=None, *, strides, pads, dilations, group=1):
    half = len(pads) // 2
    if pads[:half] != pads[half:]:
        x, pads = F.pad(x, [n for i in reversed(range(half)) for n in (pads[i], pads[half + i])]), [0] * 2 * half
    return F.conv2d(x, kernel, bias, list(strides), list(pads[:half]), list(dilations), group)


def _expand(x, shape):
    own = [1] * (len(shape) - x.ndim) + list(x.shape)
    return x.broadcast_to([n if isinstance(m, int) and m == 1 else m for n, m in zip(own, shape, strict=True)])


def _gather(data, indices, axis=0):
    if isinstance(data, list):
        return [data[i] for i in indices] if isinstance(indices, list) else data[indices]
    found = data.index_select(axis, torch.tensor(np.atleast_1d(indices)))
    return found if isinstance(indices, list) else found.squeeze(axis)


def _gemm(a, b, c, *, alpha=1.0, beta=1.0, transA=0, transB=0):  # noqa: N803  # ONNX's names
    product = alpha * ((a.T if transA else a) @ (b.T if transB else b))
    return product + beta * c if beta else product


def _pad(x, pads, value=0.0, axes=None, mode="constant"):
    half = len(pads) // 2
    wanted = dict(zip(range(half) if axes is None else axes, zip(pads[:half], pads[half:], strict=True), strict=True))
    flat = [n for axis in reversed(range(x.ndim)) for n in wanted.get(axis, (0, 0))]
    return F.pad(x, flat, mode, float(value))


def _slice(x, starts, ends, axes=None, steps=None):
    axes = range(len(starts)) if axes is None else axes
    cuts = {axis: slice(*cut) for axis, *cut in zip(axes, starts, ends, steps or [1] * len(starts), strict=True)}
    if isinstance(x, list):
        return x[cuts[0]]
    return x[tuple(cuts.get(axis, slice(None)) for axis in range(x.ndim))]


def _squeeze(x, axes):
    return x[0] if isinstance(x, list) else x.squeeze(axes)


def _unsqueeze(x, axes):
    if not isinstance(x, torch.Tensor):
        return [x]
    for axis in sorted(axes):
        x = x.unsqueeze(axis)
    return x


def _pool(pool):
    def run(x, *, kernel_shape, strides, auto_pad="VALID", count_include_pad=1):
        return pool(x, list(kernel_shape), list(strides))

    return run


OPERATIONS = {
    "Add": operator.add,
    "AveragePool": _pool(F.avg_pool2d),
    "Cast": _cast,
    "Clip": torch.clamp,
    "Concat": _concat,
    "Conv": _conv,
    "Div": operator.truediv,
    "Einsum": lambda *arrays, equation: torch.einsum(equation, *arrays),
    "Exp": torch.exp,
    "Expand": _expand,
    "Gather": _gather,
    "Gelu": lambda x, approximate="none": F.gelu(x, approximate=approximate),
    "Gemm": _gemm,
    "Max": torch.maximum,
    "MaxPool": _pool(F.max_pool2d),
    "Min": torch.minimum,
    "Mul": operator.mul,
    "Pad": _pad,
    "ReduceMean": lambda x, axes, keepdims=1: x.mean(axes, bool(keepdims)),
    "Relu": F.relu,
    "Reshape": lambda x, shape: x.reshape(shape),
    "Shape": lambda x: list(x.shape),
    "Sigmoid": torch.sigmoid,
    "Slice": _slice,
    "Softmax": lambda x, axis=-1: x.softmax(axis),
    "Sqrt": torch.sqrt,
    "Squeeze": _squeeze,
    "Sub": operator.sub,
    "Transpose": lambda x, perm: x.permute(perm),
    "Unsqueeze": _unsqueeze,
}
