"""`Outputs`, which every network returns, and `forward`, which runs a network and gives gradients of its logits."""

import functools
import re
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from models.layers import BatchNorm


@struct.dataclass
class Source:
    """The network, the variables and the images that gave some `Outputs`.

    Attributes:
        model: the network; static.
        variables: its `{"params": ..., "batch_stats": ...}`.
        images: [B, H, W, C] float32, normalised.
    """

    model: nn.Module = struct.field(pytree_node=False)
    variables: dict
    images: jax.Array


@struct.dataclass
class Outputs:
    """A network's outputs for a batch.

    Attributes:
        logits: [B, K] float32.
        features: name -> array, in the network's compute type: `stem`, `stage1` ... `stageN` [B, H, W, C],
            `stage1_preact` ..., `final` [B, H, W, D] where the embedding is the mean of a map over its positions, and
            `embedding` [B, D], the classifier's input.
        pullback: cotangent of the logits -> cotangents of the gradient taps; set by `forward(gradient_taps=...)`.
        head: embedding -> logits with the network's own weights; set by `forward`.
        source: the network, its variables and the images; set by `forward`. For explanations that read the images or
            the weights, or run the network on other images.
        views: the `Outputs` for the further views of the same images, in the order of `Distiller.views` or the
            strategy's views; empty if the network ran on the first view only.
    """

    logits: jax.Array
    features: dict[str, jax.Array]
    pullback: Any = None
    head: Any = None
    source: Source | None = None
    views: "tuple[Outputs, ...]" = ()

    def gradients(self, cotangent: jax.Array) -> dict[str, jax.Array]:
        """Pulls a cotangent on the logits back to the gradient taps.

        Args:
            cotangent: [B, K] float32; a one-hot row gives the gradient of that class's logit.

        Returns:
            tap -> d(sum(cotangent * logits)) / d(tap), the tap's shape. It can be differentiated again.

        Raises:
            ValueError: the outputs were computed without gradient taps.
        """
        if self.pullback is None:
            raise ValueError("These Outputs carry no gradients: declare `gradient_taps` on the method.")
        (gradients,) = self.pullback(cotangent)
        return gradients

    def classify(self, embedding: jax.Array) -> jax.Array:
        """Logits [B, K] that this network's classifier gives to any `embedding` [B, D]."""
        if self.head is None:
            raise ValueError("These Outputs carry no classifier: build them with `models.forward`.")
        return self.head(embedding)

    def again(self, images: jax.Array, gradient_taps: tuple[str, ...] = ()) -> "Outputs":
        """Runs the same network on other normalised images [B', H, W, C], in evaluation mode.

        Batch norm uses the running statistics, even if these outputs are from a training step.
        """
        source = self.asked()
        return forward(source.model, source.variables, images, gradient_taps=gradient_taps)[0]

    def asked(self) -> Source:
        """Returns `source`. Raises `ValueError` if these outputs were not made by `models.forward`."""
        if self.source is None:
            raise ValueError("These Outputs do not know their images: build them with `models.forward`.")
        return self.source


@jax.tree_util.register_static
class NoFeatures:
    """The `features` of Outputs that have only logits. Any access raises `ValueError`; it never looks empty."""

    def _refuse(self, *_):
        raise ValueError("The method asks for features, and only logits are there.")

    __getitem__ = __iter__ = __len__ = __contains__ = get = keys = values = items = _refuse

    def __eq__(self, other):
        return isinstance(other, NoFeatures)

    def __hash__(self):
        return hash(NoFeatures)


class Taps:
    """Records named features during a forward pass and adds `deltas[name]` where one is given.

    A zero delta changes nothing. The derivative with respect to the delta is that with respect to the feature.
    """

    def __init__(self, deltas: dict[str, jax.Array] | None = None):
        self.features: dict[str, jax.Array] = {}
        self._deltas = deltas or {}

    def __call__(self, name: str, value: jax.Array) -> jax.Array:
        value = self.shift(name, value)
        self.features[name] = value
        return value

    def named(self, name: str) -> Callable[[jax.Array], jax.Array]:
        """A function that records its argument as `name`, for a block that does not know its own name."""
        return functools.partial(self, name)

    def shift(self, name: str, value: jax.Array) -> jax.Array:
        """Adds the delta and records nothing. For the input, which is no feature."""
        return value + self._deltas[name] if name in self._deltas else value


def unnamed(value: jax.Array) -> jax.Array:
    """The `tap` of a block whose output has no name."""
    return value


def stages(features: dict[str, jax.Array], suffix: str = "") -> list[jax.Array]:
    """The stage outputs in depth order: `stage1`, `stage2`, ... (or `stage1_preact`, ... with that suffix)."""
    return [features[f"stage{n}{suffix}"] for n in _numbers(features, rf"stage(\d+){suffix}")]


LAST_MAP, ATTENTION = "last_map", "attention*"  # names that stand for other taps in each network


def resolve(features: dict[str, jax.Array], tap: str) -> tuple[str, ...]:
    """The taps that a name stands for in a network.

    Args:
        features: `Outputs.features`, or their shapes.
        tap: a tap's own name, which stands for itself; `last_map`, the last stage; `attention*`, every block's
            attention, in order. A transformer's `last_map` is the stage before the last (the stem, if it has one
            stage), because the patches of the last block do not reach the classifier.

    Raises:
        ValueError: the network has no such tap.
    """
    if tap == LAST_MAP:
        numbers = _numbers(features, r"stage(\d+)")
        if not numbers:
            raise ValueError(f"The network has no taps stage1 ...; it has {sorted(features) or 'logits only'}.")
        names = ["stem", *(f"stage{n}" for n in numbers)]
        return (names[-1 if features[names[-1]].ndim == 4 else -2],)
    if tap == ATTENTION:
        numbers = _numbers(features, r"attention(\d+)")
        if not numbers:
            raise ValueError(f"The network has no attention: its taps are {sorted(features)}. Use a gradient map.")
        return tuple(f"attention{n}" for n in numbers)
    return (tap,)


def _numbers(features: dict, pattern: str) -> list[int]:
    return sorted(int(m[1]) for name in features if (m := re.fullmatch(pattern, name)))


class _Head:
    """`model.classify` as a static function. Equal models have equal functions, so jit does not retrace."""

    def __init__(self, model: nn.Module):
        self.model = model

    def __call__(self, variables, embedding):
        return self.model.apply(variables, embedding, method="classify")

    def __eq__(self, other):
        return isinstance(other, _Head) and self.model == other.model

    def __hash__(self):
        return hash((_Head, self.model))


def forward(
    model: nn.Module,
    variables: dict,
    images: jax.Array,
    *,
    train: bool = False,
    gradient_taps: tuple[str, ...] = (),
    shifts: dict[str, jax.Array] | None = None,
    rngs: dict[str, jax.Array] | None = None,
) -> tuple[Outputs, dict]:
    """Runs a network.

    Args:
        model: a linen Module that returns `Outputs`, or bare logits (then `features` is empty).
        variables: `{"params": ..., "batch_stats": ...}`.
        images: [B, H, W, C] float32, normalised.
        train: batch statistics are used and updated.
        gradient_taps: features (or `input`, `last_map`, `attention*`, see `resolve`) that `Outputs.gradients` gives
            gradients for. In training mode the batch's statistics are constants of them (`layers.BatchNorm`).
        shifts: tap -> an array that is added to the tap during the pass; for taps that are no gradient taps.
        rngs: stream -> key, for a network that draws random numbers in training: `{"dropout": key}`.

    Returns:
        (`Outputs`, the batch statistics after the pass; in evaluation mode the old ones).

    Raises:
        ValueError: a gradient tap that the network does not have.
    """

    def run(deltas):
        def hold_statistics(call, args, kwargs, context):
            if deltas and isinstance(context.module, BatchNorm) and context.method_name == "__call__":
                kwargs = {**kwargs, "deltas": deltas}
            return call(*args, **kwargs)

        moved = {**deltas, **(shifts or {})}
        extra = {"deltas": moved} if moved else {}
        if train:
            with nn.intercept_methods(hold_statistics):
                result, updates = model.apply(
                    variables, images, train=True, mutable=["batch_stats"], rngs=rngs, **extra
                )
            stats = updates.get("batch_stats", {})
        else:
            result, stats = model.apply(variables, images, train=False, **extra), variables.get("batch_stats", {})
        if not isinstance(result, Outputs):
            result = Outputs(logits=result, features={})
        return result, stats

    pullback = None
    if gradient_taps:
        shapes = jax.eval_shape(lambda: {**run({})[0].features, "input": images})
        gradient_taps = tuple(dict.fromkeys(name for tap in gradient_taps for name in resolve(shapes, tap)))
        missing = [tap for tap in gradient_taps if tap not in shapes]
        if missing:
            raise ValueError(f"{type(model).__name__} has no tap {missing}; it has {sorted(shapes)}.")
        deltas = {tap: jnp.zeros(shapes[tap].shape, shapes[tap].dtype) for tap in gradient_taps}

        def logits_of(deltas):
            outputs, stats = run(deltas)
            return outputs.logits, (outputs, stats)

        _, pullback, (outputs, stats) = jax.vjp(logits_of, deltas, has_aux=True)
    else:
        outputs, stats = run({})
    head = None
    if hasattr(model, "classify"):
        head = jax.tree_util.Partial(_Head(model), variables)
    source = Source(model, variables, images)
    return outputs.replace(pullback=pullback, head=head, source=source), stats
