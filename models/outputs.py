"""What every network returns, and the one door to gradients with respect to any of it."""

import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct


@struct.dataclass
class Outputs:
    """A network's answer to a batch.

    Attributes:
        logits: [B, K] float32.
        features: name -> array, in the network's compute type: `stem`, `stage1` ... `stageN` [B, H, W, C],
            `stage1_preact` ..., and `embedding` [B, D], what the classifier reads.
        pullback: cotangent of the logits -> cotangents of the gradient taps; set by `forward(gradient_taps=...)`.
        head: embedding -> logits with the network's own weights; set by `forward`.
        views: the answers to the further views of the same images, in the order in which a method or strategy
            declares them (`Distiller.views`); empty where only the first, usual one was asked for.
    """

    logits: jax.Array
    features: dict[str, jax.Array]
    pullback: Any = None
    head: Any = None
    views: "tuple[Outputs, ...]" = ()

    def gradients(self, cotangent: jax.Array) -> dict[str, jax.Array]:
        """Pulls a cotangent on the logits back to the gradient taps.

        Args:
            cotangent: [B, K] float32; a one-hot row asks for the gradient of that class's logit.

        Returns:
            tap -> d(sum(cotangent * logits)) / d(tap), the tap's shape. Differentiable once more.

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


@jax.tree_util.register_static
class NoFeatures:
    """The features of Outputs of which only the logits are known. Asking for any raises: none is silently empty."""

    def _refuse(self, *_):
        raise ValueError("The method asks for features, and only logits are there.")

    __getitem__ = __iter__ = __len__ = __contains__ = get = keys = values = items = _refuse

    def __eq__(self, other):
        return isinstance(other, NoFeatures)

    def __hash__(self):
        return hash(NoFeatures)


class Taps:
    """Records named features during a forward pass and adds `deltas[name]` where one is given.

    A zero delta changes nothing and makes the feature something that `jax.vjp` can differentiate by.
    """

    def __init__(self, deltas: dict[str, jax.Array] | None = None):
        self.features: dict[str, jax.Array] = {}
        self._deltas = deltas or {}

    def __call__(self, name: str, value: jax.Array) -> jax.Array:
        value = self.shift(name, value)
        self.features[name] = value
        return value

    def shift(self, name: str, value: jax.Array) -> jax.Array:
        """Adds the delta without recording: for the input, which is no feature."""
        return value + self._deltas[name] if name in self._deltas else value


def stages(features: dict[str, jax.Array], suffix: str = "") -> list[jax.Array]:
    """The stage outputs in depth order: `stage1`, `stage2`, ... (or `stage1_preact`, ... with that suffix)."""
    numbers = sorted(int(m[1]) for name in features if (m := re.fullmatch(rf"stage(\d+){suffix}", name)))
    return [features[f"stage{n}{suffix}"] for n in numbers]


class _Head:
    """`model.classify` as a static function of its variables; equal for equal models, so jit does not retrace."""

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
) -> tuple[Outputs, dict]:
    """Runs a network.

    Args:
        model: a linen Module that returns `Outputs`, or bare logits (then `features` is empty).
        variables: `{"params": ..., "batch_stats": ...}`.
        images: [B, H, W, C] float32, normalised.
        train: batch statistics are used and updated.
        gradient_taps: features (or `input`) that `Outputs.gradients` shall reach.
        shifts: tap -> what is added to it on its way through the network; of taps that are no gradient taps.

    Returns:
        (`Outputs`, the batch statistics after the pass: the old ones in eval mode).

    Raises:
        ValueError: a gradient tap that the network does not have.
    """

    def run(deltas):
        deltas = {**deltas, **(shifts or {})}
        extra = {"deltas": deltas} if deltas else {}
        if train:
            result, updates = model.apply(variables, images, train=True, mutable=["batch_stats"], **extra)
            stats = updates.get("batch_stats", {})
        else:
            result, stats = model.apply(variables, images, train=False, **extra), variables.get("batch_stats", {})
        if not isinstance(result, Outputs):
            result = Outputs(logits=result, features={})
        return result, stats

    pullback = None
    if gradient_taps:
        shapes = jax.eval_shape(lambda: {**run({})[0].features, "input": images})
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
    return outputs.replace(pullback=pullback, head=head), stats
