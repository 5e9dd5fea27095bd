"""What the families of networks share: the classifier, the end of the forward pass, and PyTorch's names."""

import re
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.layers import Dense
from models.outputs import Outputs, Taps
from registry import UserError

LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}


def rename(path: tuple[str, ...], rules: dict[str, str | Callable[[re.Match], str]]) -> str:
    """A variable's name in the reference's state_dict.

    Args:
        path: (collection, module, ..., variable), such as ("params", "stage1_block0", "conv1", "kernel").
        rules: pattern -> replacement (as in `re.sub`), applied in order to the modules' names joined by dots.

    Returns:
        The name, such as "layer1.0.conv1.weight".
    """
    _, *modules, leaf = path
    name = ".".join(modules)
    for pattern, replacement in rules.items():
        name = re.sub(pattern, replacement, name)
    return f"{name}.{LEAVES.get(leaf, leaf)}"


def completed(given: Sequence[int], own: Sequence[int], short: int = 0) -> tuple[int, ...]:
    """The option `widths` of a family, with a number for each width that is free.

    Args:
        given: the option. With `short` numbers it leaves out the widths of single layers.
        own: all widths of the network that was not pruned.
        short: see `given`.

    Raises:
        UserError: another number of widths, or a width that is no whole number above 0.
    """
    whole = all(isinstance(width, int) and width > 0 for width in given)
    if not whole or len(given) not in (short, len(own)):
        counts = " or ".join(str(count) for count in dict.fromkeys((short, len(own))))
        raise UserError(f"'widths' of this network are {counts} whole numbers above 0; got {list(given)}.")
    return tuple(given if len(given) == len(own) else own)


class Network(nn.Module):
    """The end of a convolutional network: the mean of the last map over its positions, and a linear classifier.

    A family has the fields `num_classes` (K) and `dtype` (compute type), and may set three class attributes. With K = 0
    the network is the backbone of another one: it ends before `final`, and its logits are [B, 0].

    `classifier_init`: the initialisers of the classifier's kernel and bias; PyTorch's by default.
    `torch_names`: the rules of `rename`.
    `fixed_widths`: how many of `free_widths`, the first ones, `deploy.prune` leaves alone.
    """

    classifier_init = ()
    torch_names = {}
    fixed_widths = 0

    def setup(self):
        self.classifier = Dense(self.num_classes, *self.classifier_init)

    def pooled(self, tap: Taps, x: jax.Array, drop: float = 0.0) -> Outputs:
        """The end of the forward pass; records the taps `final` and `embedding`.

        Args:
            tap: of this pass.
            x: [B, H, W, D], the last map.
            drop: share of the embedding's entries that are zeroed before the classifier reads it.

        Returns:
            The network's `Outputs`.
        """
        if not self.num_classes:
            return Outputs(logits=jnp.zeros((len(x), 0)), features=tap.features)
        x = tap("final", x)
        embedding = tap("embedding", jnp.mean(x.astype(jnp.float32), axis=(1, 2)))
        if drop:
            embedding = nn.Dropout(drop, deterministic=False)(embedding)
        return Outputs(logits=self.classify(embedding), features=tap.features)

    def classify(self, embedding: jax.Array) -> jax.Array:
        """embedding [B, D] -> logits [B, K] float32."""
        return self.classifier(embedding)

    def free_widths(self) -> tuple[int, ...]:
        """The complete option `widths`; empty: the family has none, and `deploy.prune` cannot prune it."""
        return ()

    def torch_name(self, path: tuple[str, ...]) -> str:
        """("params", "stage1_block0", "conv1", "kernel") -> the reference's name, such as "layer1.0.conv1.weight"."""
        return rename(path, self.torch_names)


def variant(network: type[nn.Module], name: str, what: str, source: str, **fields) -> Callable[..., nn.Module]:
    """A constructor of one size of a family: (num_classes, **options) -> `network`; options replace `fields`.

    Args:
        network: the family's class.
        name: of the constructor.
        what: one line on the network.
        source: the paper.
        **fields: the network's fields that define this size.
    """

    def build(num_classes: int, **options):
        return network(num_classes=num_classes, **{**fields, **options})

    build.__name__, build.__doc__ = name, f"{what}\n\nPaper: {source}"
    return build
