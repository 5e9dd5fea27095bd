"""Folds batch norms into the convolutions before them: a frozen network gives the same outputs with fewer operations.

    scale * (w x + b - mean) / sqrt(var + eps) + bias  =  w' x + bias',   w' = w * f,   bias' = bias + (b - mean) * f,
    f = scale / sqrt(var + eps)

The batch norm keeps its bias: `models.layers.BatchNorm` adds the bias alone where the variables have no scale.
Exporters and accelerators gain from folding. On a CPU, a batch norm runs in one loop with the ReLU behind it, so the
gain is small: a ResNet-56's forward pass becomes 1.025 times as fast.
"""

from collections import Counter

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.ad_checkpoint import checkpoint_name

from models import traces
from models.layers import BatchNorm, Conv, Dense

MARK = "folding:"


def fold(model: nn.Module, variables: dict, image_shape: tuple[int, int, int]) -> dict:
    """Variables with which `model` returns the same `Outputs` in evaluation mode. They cannot be trained.

    Args:
        model: any network. Each of the library's `Conv` or `Dense` layers whose output goes into one `BatchNorm` and
            nowhere else is folded. All other layers stay as they are: a convolution that is also a tap (WRN's stem),
            a batch norm behind a sum, other libraries' layers.
        variables: `{"params", "batch_stats"}`.
        image_shape: [H, W, C] of the images that the network will see.

    Returns:
        The same structure, without `scale`, `mean` and `var` of the folded batch norms; their kernels and biases are
        new NumPy arrays, computed in float64 and rounded to float32 once.
    """
    flat = traverse_util.flatten_dict({name: dict(tree) for name, tree in variables.items()})
    for layer, norm, epsilon in foldable(model, variables, image_shape):
        weights = {name: np.asarray(flat[("params", *norm, name)], np.float64) for name in ("scale", "bias")}
        mean, var = (np.asarray(flat.pop(("batch_stats", *norm, name)), np.float64) for name in ("mean", "var"))
        del flat[("params", *norm, "scale")]
        factor = weights["scale"] / np.sqrt(var + epsilon)
        kernel, shift = ("params", *layer, "kernel"), ("params", *layer, "bias")
        flat[kernel] = np.asarray(np.asarray(flat[kernel], np.float64) * factor, np.float32)
        bias = np.asarray(flat[shift], np.float64) if shift in flat else 0.0
        flat[("params", *norm, "bias")] = np.asarray(weights["bias"] + (bias - mean) * factor, np.float32)
        if shift in flat:  # the batch norm's bias now includes this bias, so the layer adds 0
            flat[shift] = np.zeros_like(flat[shift])
    return {"params": {}, "batch_stats": {}} | traverse_util.unflatten_dict(flat)


def foldable(model: nn.Module, variables: dict, image_shape: tuple[int, int, int]) -> list[tuple[tuple, tuple, float]]:
    """The pairs of layer and batch norm that `fold` can fold, found in a trace; nothing is computed.

    Every layer's output and every batch norm's input gets a name in the trace. A pair is foldable if the batch norm is
    the only reader of the layer's output, and each of the two modules is called once.

    Returns:
        (path of the layer, path of its batch norm, the batch norm's epsilon), in the order of the trace.
    """
    calls, modules = Counter(), []

    def mark(kind: str, module: nn.Module, value):
        modules.append(module)
        return checkpoint_name(value, f"{MARK}{kind}:{len(modules) - 1}")

    def watch(call, args, kwargs, context):
        module = context.module
        if context.method_name != "__call__" or not isinstance(module, (Conv, Dense, BatchNorm)):
            return call(*args, **kwargs)
        calls[module.path] += 1
        if not isinstance(module, BatchNorm):
            return mark("layer", module, call(*args, **kwargs))
        if "scale" in module.variables.get("params", {}) and args:
            args = (mark("norm", module, args[0]), *args[1:])
        return call(*args, **kwargs)

    def run(variables, image):
        with nn.intercept_methods(watch):
            return model.apply(variables, image, train=False)

    trace = jax.make_jaxpr(run)(variables, jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)).jaxpr
    readers, layers, found = traces.readers(trace), {}, []
    for eqn in trace.eqns:
        if eqn.primitive.name != "name" or not eqn.params["name"].startswith(MARK):
            continue
        (source,), (result,) = eqn.invars, eqn.outvars
        _, kind, number = eqn.params["name"].split(":")
        module = modules[int(number)]
        if kind == "layer":
            layers[result] = module.path
        elif source in layers and readers[source] == 1 and calls[layers[source]] == calls[module.path] == 1:
            found.append((layers[source], module.path, module.epsilon))
    return found
