"""Casts the weights of a frozen network to the compute type once, and not in every update."""

import collections

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core


def cast(model: nn.Module, variables: dict, image_shape: tuple[int, int, int]) -> dict:
    """Variables with which `model` computes the same bits in evaluation mode, in the types in which it reads them.

    A network that computes in bfloat16 casts each kernel from float32 before it reads the kernel. A program of many
    updates repeats that in every update: a ResNet-56 has 57 such kernels, each a launch of its own on a GPU.

    Args:
        model: any network.
        variables: `{"params", "batch_stats"}`, arrays of NumPy.
        image_shape: [H, W, C] of the images that the network will see.

    Returns:
        The same structure. A variable that the network casts at once to one smaller type has that type. All others are
        the given arrays.
    """

    def run(variables, image):
        return model.apply(variables, image, train=False)

    trace = jax.make_jaxpr(run)(variables, jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)).jaxpr
    types = collections.defaultdict(set)
    for equation in trace.eqns:
        converts = equation.primitive.name == "convert_element_type"
        for variable in equation.invars:
            if isinstance(variable, core.Var):
                types[variable].add(equation.params["new_dtype"] if converts else variable.aval.dtype)
    for variable in trace.outvars:
        if isinstance(variable, core.Var):
            types[variable].add(variable.aval.dtype)
    leaves, structure = jax.tree.flatten(variables)
    read = [types[variable] for variable in trace.invars[: len(leaves)]]
    return structure.unflatten([_in_type(x, own) for x, own in zip(leaves, read, strict=True)])


def _in_type(value: np.ndarray, types: set) -> np.ndarray:
    """The array in the only one of `types`, if it is smaller than its own."""
    dtype = next(iter(types)) if len(types) == 1 else value.dtype
    return np.asarray(value, dtype) if np.dtype(dtype).itemsize < value.dtype.itemsize else value
