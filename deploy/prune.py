"""Prunes trained weights: whole channels go, and what is left is a smaller network of the same family.

    python -m deploy.prune --param runs/teacher --ratio 0.5 --by l1 --out pruned
    python -m deploy.prune --param runs/teacher --target_multiply_adds 0.5 --by batchnorm_scale --out pruned
    python train_w_kd.py --init_param pruned --teacher_param runs/teacher --train_path runs/smaller

--ratio: every layer loses this share of its channels. --target_multiply_adds: the network keeps at most this share of
its multiply-adds. A score is divided by the mean of its layer, all layers share one threshold, and a bisection finds
the lowest threshold that is enough. Every layer keeps one channel or more.

Pruned are the layers whose width is free: inside residual blocks and inverted bottlenecks, in front of the classifier,
all layers of networks without shortcuts (VGG, MobileNetV1). The option `widths` in model.json has the widths that stay.

--by, the score of a channel; the lowest go:
  l1               sum of the filter's absolute weights (Li et al., ICLR 2017, arXiv:1608.08710)
  batchnorm_scale  absolute scale in the batch norm that follows (Liu et al., ICCV 2017, arXiv:1708.06519)
  fpgm             sum of the filter's distances to the layer's other filters (He et al., CVPR 2019, arXiv:1811.00250)
"""

import collections
import dataclasses
from collections.abc import Callable, Mapping, Sequence

import flax.linen as nn
import numpy as np
from flax import traverse_util

import pretrained
from configs import command
from deploy import derived
from deploy.arguments import Parser
from models import profile, quantization
from models.layers import BatchNorm, Conv, Dense
from pretrained.players import player_of
from pretrained.torch_format import shapes
from registry import UserError


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer whose width is free.

    Attributes:
        place: of its width in the option `widths`.
        width: its channels.
        kernel: path of the kernel whose filters make the channels, [..., width].
        scale: path of the scale in the first batch norm that sees the channels; None: there is none.
        axes: path -> the axis on which the variable has the channels.
    """

    place: int
    width: int
    kernel: tuple[str, ...]
    scale: tuple[str, ...] | None
    axes: Mapping[tuple[str, ...], int]

    @property
    def name(self) -> str:
        """The convolution's name, such as "stage1_block0/conv1"."""
        return "/".join(self.kernel[1:-1])


def layers(model: nn.Module, image_shape: tuple[int, int, int]) -> list[Layer]:
    """Finds the layers whose width is free, and the variables that have their channels; computes nothing.

    The network itself says where a layer's channels lie: a larger width gives exactly those variables another shape, on
    exactly that axis. Each width grows by a number of its own, so one trace shows the axes of all layers.

    Args:
        model: a network with `free_widths`.
        image_shape: [H, W, C].
    """
    widths, fixed = getattr(model, "free_widths", tuple)(), getattr(model, "fixed_widths", 0)
    if not widths:
        return []
    grown = [width + max(place + 1 - fixed, 0) for place, width in enumerate(widths)]
    more, lies = shapes(model.clone(widths=tuple(grown)), image_shape), collections.defaultdict(dict)
    for path, shape in shapes(model, image_shape).items():
        for axis, (before, after) in enumerate(zip(shape, more[path], strict=True)):
            if after != before:
                lies[fixed + after - before - 1][path] = axis
    order, found = _calls(model, image_shape), []
    for place, width in enumerate(widths[fixed:], start=fixed):
        axes = lies[place]
        kernels, scales = ([(*path, leaf) for path in order if (*path, leaf) in axes] for leaf in ("kernel", "scale"))
        found.append(Layer(place, width, kernels[0], scales[0] if scales else None, axes))
    return found


def _calls(model: nn.Module, image_shape: tuple[int, int, int]) -> list[tuple[str, ...]]:
    """The paths ("params", module, ...) of layers with kernels and batch norms, in the order of the forward pass."""
    paths = []

    def watch(call, args, kwargs, context):
        if context.method_name == "__call__" and isinstance(context.module, (Conv, BatchNorm, Dense, nn.Dense)):
            paths.append(("params", *context.module.path))
        return call(*args, **kwargs)

    with nn.intercept_methods(watch):
        shapes(model, image_shape)
    return paths


def l1(kernel: np.ndarray, scale: np.ndarray | None) -> np.ndarray:
    """The score `l1` of every channel of a layer.

    Args:
        kernel: [..., channels] float64.
        scale: [channels] float64, of the batch norm; None: there is none.
    """
    del scale
    return np.abs(kernel).reshape(-1, kernel.shape[-1]).sum(axis=0)


def batchnorm_scale(kernel: np.ndarray, scale: np.ndarray | None) -> np.ndarray:
    """The score `batchnorm_scale`; arguments as in `l1`."""
    del kernel
    return np.abs(scale)


def fpgm(kernel: np.ndarray, scale: np.ndarray | None) -> np.ndarray:
    """The score `fpgm`; arguments as in `l1`."""
    del scale
    filters = kernel.reshape(-1, kernel.shape[-1]).T
    return np.array([np.linalg.norm(filters - one, axis=1).sum() for one in filters])


SCORES: dict[str, Callable] = {"l1": l1, "batchnorm_scale": batchnorm_scale, "fpgm": fpgm}


def scores(found: Sequence[Layer], variables: dict, by: str) -> list[np.ndarray]:
    """The score of every channel, [width] float64 for each layer.

    Raises:
        UserError: `batchnorm_scale`, and a layer has no batch norm.
    """
    flat = traverse_util.flatten_dict(variables)

    def read(path):
        return None if path is None else np.asarray(flat[path], np.float64)

    for layer in found:
        if by == "batchnorm_scale" and layer.scale is None:
            raise UserError(f"--by batchnorm_scale: no batch norm follows {layer.name}.\nTake --by l1.")
    return [SCORES[by](read(layer.kernel), read(layer.scale)) for layer in found]


def keep_shares(ratings: Sequence[np.ndarray], ratio: float) -> list[np.ndarray]:
    """The channels that stay if every layer loses the share `ratio`: rising indices for each layer."""
    return [_best(rating, len(rating) - int(ratio * len(rating))) for rating in ratings]


def keep_above(ratings: Sequence[np.ndarray], threshold: float) -> list[np.ndarray]:
    """The channels whose score is above `threshold` times the mean of their layer, and each layer's best one."""
    counts = [int((rating > threshold * rating.mean()).sum()) for rating in ratings]
    return [_best(rating, max(count, 1)) for rating, count in zip(ratings, counts, strict=True)]


def _best(rating: np.ndarray, count: int) -> np.ndarray:
    return np.sort(np.argsort(-rating, kind="stable")[:count])


def keep_within(ratings: Sequence[np.ndarray], share: float, cost: Callable[[list[np.ndarray]], int]) -> list:
    """The channels that stay if the network keeps at most `share` of its multiply-adds (see the module).

    Args:
        ratings: the scores, [width] for each layer.
        share: in (0, 1).
        cost: channels that stay -> multiply-adds.

    Raises:
        UserError: one channel in every layer is still too much.
    """
    limit = share * cost([np.arange(len(rating)) for rating in ratings])
    steps = np.unique(np.concatenate([rating / (rating.mean() or 1.0) for rating in ratings]))
    low, high = -1, len(steps) - 1  # steps[low] keeps too much, steps[high] is enough
    least = cost(keep_above(ratings, steps[high]))
    if least > limit:
        raise UserError(
            f"--target_multiply_adds {share:g} is out of reach: one channel in every layer leaves "
            f"{least * share / limit:.3f}.\nThe widths between the blocks stay. Take a higher target."
        )
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if cost(keep_above(ratings, steps[middle])) <= limit else (middle, high)
    return keep_above(ratings, steps[high])


def narrowed(model: nn.Module, found: Sequence[Layer], kept: Sequence[np.ndarray]) -> nn.Module:
    """The network with as many channels in each layer as stay."""
    widths = list(model.free_widths())
    for layer, channels in zip(found, kept, strict=True):
        widths[layer.place] = len(channels)
    return model.clone(widths=tuple(widths))


def cut(variables: dict, found: Sequence[Layer], kept: Sequence[np.ndarray]) -> dict:
    """The variables without the channels that go."""
    flat = traverse_util.flatten_dict(variables)
    for layer, channels in zip(found, kept, strict=True):
        for path, axis in layer.axes.items():
            flat[path] = np.take(np.asarray(flat[path]), channels, axis)
    return traverse_util.unflatten_dict(flat)


def prune(weights: pretrained.Pretrained, by: str, ratio: float = 0.0, target: float = 0.0, arch: str = ""):
    """Prunes weights by `ratio`, or to the share `target` of the multiply-adds.

    Returns:
        (model.json of the pruned weights, their variables, the layers, how many channels of each stay, costs before and
        after).

    Raises:
        UserError: the network has no free widths, or the target is out of reach.
    """
    shape = tuple(weights.info["image_shape"])
    player, variables = player_of(weights, "network", arch=arch)
    model = player.model
    found = layers(model, shape)
    if not found:
        raise UserError(
            f"{weights.info['arch']} cannot be pruned: no width of its layers is free.\n"
            "Families that can: ResNet, WRN, VGG, MobileNet, EfficientNet, ShuffleNetV2, ConvNeXt, CNN."
        )

    def cost(kept):
        return profile.cost(narrowed(model, found, kept), shape)

    ratings = scores(found, variables, by)
    if target:
        kept = keep_within(ratings, target, lambda kept: cost(kept).multiply_adds)
    else:
        kept = keep_shares(ratings, ratio)
    smaller, left = narrowed(model, found, kept), cut(variables, found, kept)
    options = {**weights.info.get("options", {}), "widths": list(smaller.widths)}
    if "quantize" in options:  # ranges of inputs do not hold any more
        options["quantize"] = quantization.rule_of(options["quantize"]).name
    how = {"from": weights.sha256, "by": by, "ratio": ratio, "target_multiply_adds": target}
    info = derived.info_of(weights, options, pruned=how)
    return info, left, found, [len(channels) for channels in kept], (profile.cost(model, shape), cost(kept))


def parser() -> Parser:
    """Defines the flags."""
    p = Parser("deploy.prune", __doc__)
    p.add_argument("--ratio", type=float, default=0.0, help="the share of its channels that every layer loses")
    p.add_argument("--target_multiply_adds", type=float, default=0.0, help="the share of multiply-adds that may stay")
    p.add_argument("--by", default="l1", help=f"the score of a channel: {', '.join(SCORES)}; default: l1")
    p.add_argument("--out", required=True, help="the folder to write")
    return p


def main(argv: list[str]) -> None:
    """Prunes, prints what went and writes the weights."""
    args = parser().parse_args(argv)
    if args.by not in SCORES:
        raise UserError(f"--by {args.by} is no score of channels.\nKnown: {', '.join(SCORES)}.")
    if bool(args.ratio) == bool(args.target_multiply_adds):
        raise UserError("Give one of --ratio and --target_multiply_adds.\nExample: --ratio 0.5")
    for name in ("ratio", "target_multiply_adds"):
        if not 0 <= getattr(args, name) < 1:
            raise UserError(f"--{name} is a share above 0 and below 1; got {getattr(args, name)}.")
    out = derived.new_folder(args.out)
    command.tune()
    weights = pretrained.load(args.param)
    info, variables, found, counts, (before, after) = prune(
        weights, args.by, args.ratio, args.target_multiply_adds, args.arch
    )
    for layer, count in zip(found, counts, strict=True):
        print(f"{layer.name:<32} {layer.width:5d} -> {count}")
    share = after.multiply_adds / before.multiply_adds
    print(f"Before: {before}. After: {after} ({100 * share:.1f} %).")
    derived.write(out, variables, info)
    print(f"Written to {out}. To train it: python train_w_kd.py --init_param {out} --teacher_param {args.param}")


if __name__ == "__main__":
    command.run(main)
