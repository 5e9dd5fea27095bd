"""Networks written with `flax.nnx`, as linen Modules: their variables lie outside, like those of every other network.

An nnx network is an object that holds its variables. The wrapper builds the object anew for each trace, puts the
variables that it is given into the object, and calls it. A new trace builds shapes only.
"""

import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util
from flax.core import FrozenDict
from flax.errors import InvalidRngError

from registry import UserError


def is_nnx(build: Callable) -> bool:
    """Whether `build` makes an nnx network: a subclass of `nnx.Module`, or a function with the parameter `rngs`."""
    nnx = sys.modules.get("flax.nnx")  # code that has an nnx network has imported it
    if nnx is None:
        return False
    return issubclass(build, nnx.Module) if isinstance(build, type) else _takes(build, "rngs")


def wrap(build: Callable, num_classes: int, dtype: Any = jnp.float32, **options) -> nn.Module:
    """The linen Module around an nnx network.

    Args:
        build: called as `build(num_classes=K, rngs=nnx.Rngs(key), **options)`; with `dtype` where it takes one.
        num_classes: K.
        dtype: compute type.
        **options: the network's own.

    Raises:
        TypeError: `build` does not take an option, or takes no `dtype` and another than float32 is asked for.
        UserError: the network holds a variable that is neither a parameter, a batch statistic nor a random number.
    """
    if _takes(build, "dtype") or jnp.dtype(dtype) != jnp.float32:
        options = {**options, "dtype": dtype}
    network = NNXNetwork(build, num_classes, FrozenDict(options), dtype)
    module, leaves = network.shapes()
    for path, leaf in leaves.items():
        _kind(path, leaf)
    return NNXClassifier(build, num_classes, FrozenDict(options), dtype) if hasattr(module, "classify") else network


class NNXNetwork(nn.Module):
    """An nnx network behind linen's `init` and `apply`.

    In training mode the network's dropout layers draw from the stream "dropout", and new batch statistics go to the
    collection `batch_stats`. The network's call takes images, and `train` and `deltas` if it has these parameters.

    Attributes:
        build: the network's class, or a function that returns a network.
        num_classes: K.
        options: further arguments of `build`.
        dtype: compute type.
    """

    build: Callable
    num_classes: int
    options: Mapping = FrozenDict()
    dtype: Any = jnp.float32

    def shapes(self) -> tuple[Any, dict[tuple, Any]]:
        """(the network with shapes in the place of arrays, path -> variable)."""
        nnx = sys.modules["flax.nnx"]
        module = nnx.eval_shape(lambda: self.built(jax.random.key(0)))
        return module, dict(nnx.to_flat_state(nnx.state(module)))

    def built(self, key: jax.Array) -> Any:
        """The network with first weights that follow from `key`."""
        rngs = sys.modules["flax.nnx"].Rngs(key)
        return self.build(num_classes=self.num_classes, rngs=rngs, **self.options)

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False, deltas: dict | None = None) -> Any:
        if self.is_initializing():
            module = self.built(self.make_rng("params"))
            self._store(module, "params", "batch_stats")
            module.eval()
        else:
            module = self._filled(train)
        before = _counts(module)
        result = module(images, **self._arguments(module, train, deltas))
        drawn = any(new is not old for new, old in zip(_counts(module), before, strict=True))
        if train and drawn and not self.has_rng("dropout"):
            raise InvalidRngError(f"{type(module).__name__} draws random numbers in training and is given none.")
        if train:
            self._store(module, "batch_stats")
        return result

    def _arguments(self, module: Any, train: bool, deltas: dict | None) -> dict:
        """What the network's call takes besides the images."""
        given = {"deltas": deltas} if deltas else {}
        return {**given, "train": train} if _takes(type(module).__call__, "train") else given

    def _filled(self, train: bool) -> Any:
        """The network with the variables of this call; its random numbers follow from the stream "dropout"."""
        nnx = sys.modules["flax.nnx"]
        module, leaves = self.shapes()
        key = self.make_rng("dropout") if train and self.has_rng("dropout") else jax.random.key(0)
        flat = {name: traverse_util.flatten_dict(self.variables.get(name, {})) for name in ("params", "batch_stats")}
        for number, (path, leaf) in enumerate(leaves.items()):
            kind, like = _kind(path, leaf), leaf.get_value()
            if kind != "random":
                value = flat[kind][tuple(map(str, path))]
            elif jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
                own = jax.random.fold_in(key, number)
                value = jax.random.split(own, like.shape) if like.shape else own
            else:
                value = jnp.zeros(like.shape, like.dtype)
            leaves[path] = leaf.replace(value)
        nnx.update(module, nnx.from_flat_state(leaves))
        module.train() if train else module.eval()
        return module

    def _store(self, module: Any, *kinds: str) -> None:
        """Puts the network's variables of these kinds into the collections."""
        nnx = sys.modules["flax.nnx"]
        for kind in kinds:
            found = {p: leaf for p, leaf in nnx.to_flat_state(nnx.state(module)) if _kind(p, leaf) == kind}
            nested = traverse_util.unflatten_dict({tuple(map(str, p)): x.get_value() for p, x in found.items()})
            for name, value in nested.items():
                self.put_variable(kind, name, value)


class NNXClassifier(NNXNetwork):
    """An nnx network with a method `classify`: embedding [B, D] -> logits [B, K]."""

    def classify(self, embedding: jax.Array) -> jax.Array:
        return self._filled(train=False).classify(embedding)


def _takes(function: Callable, name: str) -> bool:
    return name in inspect.signature(function).parameters


def _kind(path: tuple, leaf: Any) -> str:
    """The collection of a variable, or "random" for the state of random numbers."""
    nnx = sys.modules["flax.nnx"]
    for name, kind in (("params", nnx.Param), ("batch_stats", nnx.BatchStat), ("random", nnx.RngState)):
        if isinstance(leaf, kind):
            return name
    raise UserError(
        f"'{'.'.join(map(str, path))}' of the nnx network is {type(leaf).__name__}.\n"
        "A network's variables are nnx.Param, which learn, and nnx.BatchStat."
    )


def _counts(module: Any) -> list[jax.Array]:
    """How many random numbers the network has drawn; a draw puts another array in the place of one."""
    nnx = sys.modules["flax.nnx"]
    return [leaf.get_value() for _, leaf in nnx.to_flat_state(nnx.state(module, nnx.RngCount))]
