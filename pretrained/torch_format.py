"""Weights as a PyTorch state_dict: the references' names and layouts of the tensors. PyTorch is not needed.

A network's reference is the PyTorch network that it follows. The network's method `torch_name(path)` returns the
reference's name of a variable. A network may leave a choice open until it sees an image (stem=None). Then it also has
`settle(shape_of)`, which returns the same network with the choice that fits given weights. A convolution's kernel is
OIHW in PyTorch and HWIO here; a linear layer's is [out, in] in PyTorch and [in, out] here; all other arrays are equal.
"""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from registry import UserError

TO_HERE = {4: (2, 3, 1, 0), 2: (1, 0)}  # by the number of axes of a kernel
TO_TORCH = {4: (3, 2, 0, 1), 2: (1, 0)}


def _moved(axes: dict, path: tuple[str, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    return axes.get(len(shape), tuple(range(len(shape)))) if path[-1] == "kernel" else tuple(range(len(shape)))


def _shape(axes: dict, path: tuple[str, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(shape[axis] for axis in _moved(axes, path, shape))


def shapes(model: nn.Module, image_shape: tuple[int, ...]) -> dict[tuple[str, ...], tuple[int, ...]]:
    """Path -> shape of every variable; nothing is computed."""
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    variables = jax.eval_shape(lambda key, x: model.init(key, x), jax.random.key(0), image)
    return {path: x.shape for path, x in traverse_util.flatten_dict(dict(variables)).items()}


def _torch_name(model: nn.Module):
    if not hasattr(model, "torch_name"):
        raise UserError(f"{type(model).__name__} has no PyTorch names: give it a method `torch_name(path)`.")
    return model.torch_name


def differences(want: dict[str, tuple[int, ...]], have: dict[str, tuple[int, ...]]) -> list[str]:
    """Differences between two dicts of name -> shape.

    Returns:
        Up to three phrases: the missing names, the unexpected names, the first wrong shape. Empty: no difference.
    """
    problems = []
    for title, names in (("missing", want.keys() - have.keys()), ("unexpected", have.keys() - want.keys())):
        if names:
            listed = sorted(names)
            problems.append(f"{title} {', '.join(listed[:8])}{' ...' if len(listed) > 8 else ''} ({len(listed)})")
    wrong = min((name for name in want.keys() & have.keys() if want[name] != have[name]), default=None)
    if wrong is not None:
        problems.append(f"'{wrong}' has shape {have[wrong]}, needed {want[wrong]}")
    return problems


def expected(
    model: nn.Module, tensors: Mapping[str, np.ndarray], image_shape: tuple[int, int, int] | None = None
) -> tuple[dict[tuple[str, ...], str], dict[str, tuple[int, ...]]]:
    """What a state_dict of `model` contains.

    Args:
        model: see `from_torch`.
        tensors: the state_dict at hand. It decides choices that the network leaves open (`settle`), and the number of
            image channels where `image_shape` is None.
        image_shape: see `from_torch`.

    Returns:
        (variable path -> name, name -> shape in PyTorch's layout).
    """
    name_of = _torch_name(model)

    def shape_of(path):
        value = tensors.get(name_of(path))
        return None if value is None else _shape(TO_HERE, path, value.shape)

    if hasattr(model, "settle"):
        model = model.settle(shape_of)
        name_of = model.torch_name
    side = getattr(model, "image_size", None) or 224
    paths = shapes(model, tuple(image_shape or (side, side, 3)))
    if image_shape is None:  # the first kernel has as many input channels as the images
        found = [shape_of(path) for path, shape in paths.items() if len(shape) == 4 and shape[2] == 3]
        channels = {shape[2] for shape in found if shape and len(shape) == 4}
        if len(channels) == 1 and channels != {3}:
            paths = shapes(model, (side, side, channels.pop()))
    names = {path: name_of(path) for path in paths}
    return names, {names[path]: _shape(TO_TORCH, path, shape) for path, shape in paths.items()}


def from_torch(
    model: nn.Module, state_dict: Mapping[str, np.ndarray], image_shape: tuple[int, int, int] | None = None
) -> dict:
    """Variables of `model` from a state_dict.

    Args:
        model: a network of this library, or any network with a method `torch_name`.
        state_dict: the reference's name -> array, in PyTorch's layout. A leading `module.` (of DataParallel) and
            `num_batches_tracked` are ignored.
        image_shape: [H, W, C] of the images, where the parameters' shapes depend on it (a ViT's positions); by default
            the network's `image_size` or 224 pixels, of as many channels as the weights have.

    Returns:
        `{"params", "batch_stats"}`, nested dicts of NumPy arrays, float32.

    Raises:
        UserError: names or shapes differ; the message lists missing and unexpected names and the first wrong shape.
    """
    tensors = {name.removeprefix("module."): np.asarray(value) for name, value in state_dict.items()}
    tensors = {name: value for name, value in tensors.items() if name.rpartition(".")[2] != "num_batches_tracked"}
    names, want = expected(model, tensors, image_shape)
    problems = differences(want, {name: value.shape for name, value in tensors.items()})
    if problems:
        raise UserError(f"The state_dict does not fit {type(model).__name__}: {'; '.join(problems)}.")
    flat = {}
    for path, name in names.items():
        value = tensors[name].transpose(_moved(TO_HERE, path, tensors[name].shape))
        flat[path] = np.array(value, np.float32, order="C")  # a copy: the tensors may belong to a network in use
    nested = traverse_util.unflatten_dict(flat)
    return {"params": nested["params"], "batch_stats": nested.get("batch_stats", {})}


def to_torch(model: nn.Module, variables: Mapping) -> dict[str, np.ndarray]:
    """A state_dict of `variables`; `from_torch` turns it back into the same bits.

    Args:
        model: the network of the variables.
        variables: `{"params", "batch_stats"}`.

    Returns:
        The reference's name -> array in PyTorch's layout. `load_state_dict` accepts the arrays as tensors;
        `num_batches_tracked` is absent, and `load_state_dict` does not require it.
    """
    flat = traverse_util.flatten_dict({name: dict(variables.get(name, {})) for name in ("params", "batch_stats")})
    name_of = _torch_name(model)
    if hasattr(model, "settle"):
        name_of = model.settle(lambda path: flat[path].shape if path in flat else None).torch_name
    arrays = {path: np.asarray(value) for path, value in flat.items()}
    return {
        name_of(path): np.array(value.transpose(_moved(TO_TORCH, path, value.shape)), order="C")
        for path, value in arrays.items()
    }
