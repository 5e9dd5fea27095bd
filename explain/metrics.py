"""Faithfulness of explanation maps: does the network use what a map marks?

Maps are [N, H, W], larger is more important. Statistics are NumPy in float64; the network runs compiled.

Papers:
    perturbation: Chefer, Gur, Wolf. Transformer Interpretability Beyond Attention Visualization. CVPR 2021.
        arXiv:2012.09838, section 4 and its code.
    deletion, insertion: Petsiuk, Das, Saenko. RISE. BMVC 2018. arXiv:1806.07421.
    randomisation: Adebayo et al. Sanity Checks for Saliency Maps. NeurIPS 2018. arXiv:1810.03292.
    pointing game: Zhang et al. Top-down Neural Attention by Excitation Backprop. ECCV 2016. arXiv:1608.00507.
    sparsity: Chalasani et al. Concise Explanations of Neural Networks. ICML 2020. arXiv:1810.06583 (Gini index).

Deviations: pixels of equal importance leave in one random order that is drawn once (the references' order depends on
the sort, and maps behind a ReLU have many zeros). At 100 % the black image is measured; the reference writes 0 by hand.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from explain.similarity import spearman
from explain.subject import Subject
from models import forward

STEPS = 10  # of 10 % each


def ranks(maps: np.ndarray, last_first: bool = False, seed: int = 0) -> np.ndarray:
    """When each pixel's turn comes: 0 for the most important one (the least important with `last_first`).

    Args:
        maps: [N, H, W].
        last_first: the other way round.
        seed: of the order among equals, which is the same for all maps and both directions.

    Returns:
        [N, H, W] int32, each map a permutation of 0 ... H*W-1.
    """
    flat = np.asarray(maps, np.float64).reshape(len(maps), -1)
    order = np.random.RandomState(seed).permutation(flat.shape[1])
    turn = np.argsort((flat if last_first else -flat)[:, order], axis=1, kind="stable")
    found = np.empty(flat.shape, np.int32)
    np.put_along_axis(found, order[turn], np.arange(flat.shape[1], dtype=np.int32)[None], axis=1)
    return found.reshape(maps.shape)


@functools.partial(jax.jit, static_argnums=0)
def _masked_probabilities(model, variables, images, others, rank, count):
    """Softmax [B, K] after the `count` pixels of lowest rank were taken from `others` instead of `images`."""
    mixed = jnp.where(rank[..., None] < count, others, images)
    return jax.nn.softmax(forward(model, variables, mixed)[0].logits)


def perturb(subject: Subject, images: np.ndarray, rank: np.ndarray, steps: int = STEPS, fill: str = "black"):
    """The network's answers while images lose their pixels in the order of `rank`.

    Args:
        subject: the network.
        images: [N, H, W, C] uint8.
        rank: [N, H, W] int32 (`ranks`).
        steps: S; step s takes floor(H*W*s/S) pixels away, all channels of each.
        fill: what a lost pixel becomes: "black" (0, the perturbation test), "mean" (the input mean, deletion), or
            "inserted": a blurred image gets the image's pixels back instead (insertion).

    Returns:
        Probabilities [S + 1, N, K] float64: of 0, 1/S ... S/S of the pixels.

    Raises:
        ValueError: an unknown fill, or ranks that are not of the images' shape.
    """
    if fill not in ("black", "mean", "inserted"):
        raise ValueError(f"'fill' is black, mean or inserted; got '{fill}'.")
    if rank.shape != images.shape[:3]:
        raise ValueError(f"The ranks are {rank.shape}, the images {images.shape[:3]}: give one rank to each pixel.")
    pixels = images.shape[1] * images.shape[2]
    found = []
    for x, index in subject.batches(images, np.arange(len(images))):
        others = jnp.zeros_like(x)  # the mean of normalised images
        if fill == "black":
            others = jnp.broadcast_to(subject.normalised(np.zeros(images.shape[-1:], np.uint8)), x.shape)
        if fill == "inserted":
            x, others = _blurred(x), x
        rows = jnp.asarray(rank[np.asarray(index)])
        counts = [np.int32(pixels * s // steps) for s in range(steps + 1)]
        run = functools.partial(_masked_probabilities, subject.model, subject.variables, x, others, rows)
        found.append(np.stack([np.asarray(run(count), np.float64) for count in counts]))
    return np.concatenate(found, axis=1)[:, : len(images)]


@jax.jit
def _blurred(images):
    """A Gaussian blur over 11x11 pixels of deviation 5, zeros outside: RISE's starting point of insertion."""
    offsets = jnp.arange(-5, 6, dtype=images.dtype)
    weights = jnp.exp(-(offsets**2) / 50)
    weights = weights / weights.sum()

    def along(x, axis):
        moved = jnp.moveaxis(x, axis, -1)
        padded = jnp.pad(moved, [(0, 0)] * 3 + [(5, 5)])
        parts = [weights[i] * padded[..., i : i + moved.shape[-1]] for i in range(11)]
        return jnp.moveaxis(sum(parts[1:], parts[0]), -1, axis)

    return along(along(images, 1), 2)


def auc(curve: np.ndarray) -> np.ndarray:
    """Area under curves [S + 1, ...] over the share of pixels from 0 to 1, by the trapezoidal rule: [...]."""
    return np.trapezoid(np.asarray(curve, np.float64), dx=1 / (len(curve) - 1), axis=0)


def hits(probabilities: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Whether the most probable class [..., N, K] is the one in `classes` [N]: [..., N] float64."""
    return (probabilities.argmax(axis=-1) == classes).astype(np.float64)


def sparsity(maps: np.ndarray) -> np.ndarray:
    """Gini index [N] of the absolute values of maps [N, H, W]: 0 where all are equal, 1 - 1/(H*W) for a single pixel.

    A map of zeros has 0.
    """
    values = np.sort(np.abs(np.asarray(maps, np.float64)).reshape(len(maps), -1), axis=1)
    size, total = values.shape[1], values.sum(axis=1)
    weights = (2 * np.arange(1, size + 1) - size - 1) / size
    return np.divide((values * weights).sum(axis=1), total, out=np.zeros(len(values)), where=total > 0)


def pointing(maps: np.ndarray, masks: np.ndarray, tolerance: int = 0) -> np.ndarray:
    """Pointing game: whether a map's maximum lies on the object, [N] in [0, 1].

    Args:
        maps: [N, H, W].
        masks: [N, H, W] bool.
        tolerance: pixels; a maximum within this distance (along both axes) of the object counts too. The paper has 15
            of its images' 224 or more.

    Returns:
        1 or 0; where the maximum is attained more than once, the share of these pixels that hit.
    """
    _check_masks(maps, masks)
    grown, side = masks.copy(), 2 * tolerance + 1
    padded = np.pad(masks, [(0, 0), (tolerance, tolerance), (tolerance, tolerance)])
    for i in range(side):
        for j in range(side):
            grown |= padded[:, i : i + masks.shape[1], j : j + masks.shape[2]]
    top = maps == maps.max(axis=(1, 2), keepdims=True)
    return (top & grown).sum(axis=(1, 2)) / top.sum(axis=(1, 2))


def iou(maps: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Intersection over union [N] of masks [N, H, W] with the pixels of maps [N, H, W] above their mean."""
    _check_masks(maps, masks)
    wide = np.asarray(maps, np.float64)
    marked = wide > wide.mean(axis=(1, 2), keepdims=True)
    return (marked & masks).sum(axis=(1, 2)) / (marked | masks).sum(axis=(1, 2))


def average_precision(maps: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Average precision [N] of maps [N, H, W] as scores for "this pixel is in the mask" [N, H, W]."""
    _check_masks(maps, masks)
    found = []
    for scores, truth in zip(maps.reshape(len(maps), -1), masks.reshape(len(masks), -1), strict=True):
        order = np.argsort(-scores, kind="stable")
        ends = np.append(np.flatnonzero(np.diff(scores[order])), scores.size - 1)  # the last of each run of equals
        right = truth[order].cumsum()[ends]
        found.append((np.diff(right, prepend=0) / truth.sum() * right / (ends + 1)).sum())
    return np.asarray(found)


def _check_masks(maps, masks):
    if maps.shape != masks.shape:
        raise ValueError(f"The maps are {maps.shape}, the masks {masks.shape}: one mask a map, of its size, is needed.")
    if not masks.any(axis=(1, 2)).all():
        raise ValueError(f"Mask {int((~masks.any(axis=(1, 2))).argmax())} is empty: leave out such images.")


def modules(subject: Subject, image_shape: tuple[int, ...]) -> list[str]:
    """The network's top-level modules from the input to the classifier (the order in which it makes them)."""
    names = []

    def build(key):
        names.extend(subject.model.init(key, jnp.zeros((1, *image_shape), jnp.float32))["params"])

    jax.eval_shape(build, jax.random.key(0))
    return names


def randomised(subject: Subject, image_shape: tuple[int, ...], seed: int = 0):
    """Sanity check: the network with ever more of its modules drawn anew, from the classifier down to the input.

    Yields:
        (name of the module that was just drawn anew, the `Subject`), one a module that has parameters.
    """
    fresh = jax.jit(subject.model.init)(jax.random.key(seed), jnp.zeros((1, *image_shape), jnp.float32))
    variables = {kind: dict(tree) for kind, tree in subject.variables.items()}
    for name in reversed(modules(subject, image_shape)):
        for kind in variables:
            if name in variables[kind]:
                variables[kind] = {**variables[kind], name: fresh[kind][name]}
        yield name, subject.replaced(dict(variables))


def sanity(subject: Subject, explanation, images: np.ndarray, classes: np.ndarray, seed: int = 0) -> dict[str, float]:
    """Rank correlation of the maps with those of the partly randomised network; a map that stays does not explain.

    Args:
        images: [N, H, W, C] uint8.
        classes: [N] int, explained throughout.

    Returns:
        module -> mean Spearman correlation once it and all behind it are drawn anew (0 where one map is constant).
    """
    trained = subject.maps(explanation, images, classes)
    drawn = randomised(subject, images.shape[1:], seed)
    return {name: float(spearman(trained, s.maps(explanation, images, classes)).mean()) for name, s in drawn}
