"""Measures of faithfulness: whether the network uses the pixels that a map calls important.

Maps are [N, H, W]; a larger value means a more important pixel. The network runs compiled; statistics are computed in
float64 with NumPy.

Papers:
    perturbation: Chefer, Gur, Wolf. Transformer Interpretability Beyond Attention Visualization. CVPR 2021.
        arXiv:2012.09838, section 4 and its code.
    deletion, insertion: Petsiuk, Das, Saenko. RISE. BMVC 2018. arXiv:1806.07421.
    randomisation: Adebayo et al. Sanity Checks for Saliency Maps. NeurIPS 2018. arXiv:1810.03292.
    pointing game: Zhang et al. Top-down Neural Attention by Excitation Backprop. ECCV 2016. arXiv:1608.00507.
    sparsity: Chalasani et al. Concise Explanations of Neural Networks. ICML 2020. arXiv:1810.06583 (Gini index).

Deviations: pixels of equal importance are removed in a random order, drawn once. The references remove them in the
order of their sort, and maps after a ReLU have many equal pixels. At 100 % of the pixels, the accuracy on the black
image is measured; the perturbation reference sets this value to 0.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from explain.similarity import spearman
from explain.subject import Subject
from models import forward

STEPS = 10  # each removes 10 % of the pixels


def ranks(maps: np.ndarray, last_first: bool = False, seed: int = 0) -> np.ndarray:
    """Rank the pixels of each map by importance.

    Args:
        maps: [N, H, W].
        last_first: rank 0 is the least important pixel instead of the most important one.
        seed: seed of the order among equal pixels. This order is the same for all maps and for both directions.

    Returns:
        [N, H, W] int32: the ranks of each map are a permutation of 0 ... H*W-1.
    """
    flat = np.asarray(maps, np.float64).reshape(len(maps), -1)
    order = np.random.RandomState(seed).permutation(flat.shape[1])
    sequence = np.argsort((flat if last_first else -flat)[:, order], axis=1, kind="stable")
    found = np.empty(flat.shape, np.int32)
    np.put_along_axis(found, order[sequence], np.arange(flat.shape[1], dtype=np.int32)[None], axis=1)
    return found.reshape(maps.shape)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _masked_probabilities(eye, model, variables, images, others, rank, count):
    """Return the softmax [B, K] for `images` in which the `count` pixels of lowest rank come from `others`."""
    mixed = jnp.where(rank[..., None] < count, others, images)
    return jax.nn.softmax(forward(model, variables, eye(mixed))[0].logits)


def perturb(subject: Subject, images: np.ndarray, rank: np.ndarray, fill: str = "black") -> np.ndarray:
    """Compute the network's probabilities while more and more pixels are replaced, in the order of `rank`.

    Step s of S = `STEPS` replaces floor(H*W*s/S) pixels, all channels of each.

    Args:
        subject: the network.
        images: [N, H, W, C] uint8.
        rank: [N, H, W] int32, of `ranks`.
        fill: "black" (the perturbation test) replaces pixels of the image by 0, "mean" (deletion) by the input mean.
            "inserted" (insertion) replaces pixels of the blurred image by those of the image.

    Returns:
        [S + 1, N, K] float64: after 0, 1/S ... S/S of the pixels.

    Raises:
        ValueError: an unknown fill, or ranks of another shape than the images.
    """
    if fill not in ("black", "mean", "inserted"):
        raise ValueError(f"'fill' must be black, mean or inserted; got '{fill}'.")
    if rank.shape != images.shape[:3]:
        raise ValueError(f"The ranks are {rank.shape}, the images {images.shape[:3]}: each pixel needs one rank.")
    counts = [np.int32(images.shape[1] * images.shape[2] * s // STEPS) for s in range(STEPS + 1)]

    def program(model, variables, x, rank):
        others = jnp.zeros_like(x)  # normalised images have the mean 0
        if fill == "black":
            others = jnp.broadcast_to(subject.normalised(np.zeros(images.shape[-1:], np.uint8)), x.shape)
        if fill == "inserted":
            x, others = _blurred(x), x
        found = [_masked_probabilities(subject.eye, model, variables, x, others, rank, count) for count in counts]
        return np.stack([np.asarray(part, np.float64) for part in found], axis=1)

    return np.moveaxis(subject.collect(program, images, rank), 1, 0)


@jax.jit
def _blurred(images):
    """Blur images by RISE's Gaussian: 11x11 pixels, standard deviation 5, zeros outside the image."""
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
    """Return the area [...] under curves [S + 1, ...] over the share of pixels, 0 to 1, by the trapezoidal rule."""
    return np.trapezoid(np.asarray(curve, np.float64), dx=1 / (len(curve) - 1), axis=0)


def hits(probabilities: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return 1 where the class of highest probability [..., N, K] is in `classes` [N], else 0: [..., N] float64."""
    return (probabilities.argmax(axis=-1) == classes).astype(np.float64)


def sparsity(maps: np.ndarray) -> np.ndarray:
    """Return the Gini index [N] of the absolute values of maps [N, H, W].

    The index is 0 for a map of equal pixels or of zeros, and 1 - 1/(H*W) for a map with a single pixel above 0.
    """
    values = np.sort(np.abs(np.asarray(maps, np.float64)).reshape(len(maps), -1), axis=1)
    size, total = values.shape[1], values.sum(axis=1)
    weights = (2 * np.arange(1, size + 1) - size - 1) / size
    return np.divide((values * weights).sum(axis=1), total, out=np.zeros(len(values)), where=total > 0)


def pointing(maps: np.ndarray, masks: np.ndarray, tolerance: int = 0) -> np.ndarray:
    """Play the pointing game: does the maximum of a map lie on the object?

    Args:
        maps: [N, H, W].
        masks: [N, H, W] bool, the pixels of the object.
        tolerance: a maximum also hits within this distance of the object, in pixels along each axis. The paper uses
            15 pixels for images of 224 pixels or more.

    Returns:
        [N] float64: 1 for a hit, 0 for none. If several pixels have the maximum, the share of them that hit.
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
    """Return the intersection over union [N] of masks [N, H, W] and the pixels of maps [N, H, W] above their mean."""
    _check_masks(maps, masks)
    wide = np.asarray(maps, np.float64)
    marked = wide > wide.mean(axis=(1, 2), keepdims=True)
    return (marked & masks).sum(axis=(1, 2)) / (marked | masks).sum(axis=(1, 2))


def average_precision(maps: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Return the average precision [N] of maps [N, H, W] as scores for the pixels of masks [N, H, W]."""
    _check_masks(maps, masks)
    found = []
    for scores, truth in zip(maps.reshape(len(maps), -1), masks.reshape(len(masks), -1), strict=True):
        order = np.argsort(-scores, kind="stable")
        # The last place of each run of equal scores.
        ends = np.append(np.flatnonzero(np.diff(scores[order])), scores.size - 1)
        right = truth[order].cumsum()[ends]
        found.append((np.diff(right, prepend=0) / truth.sum() * right / (ends + 1)).sum())
    return np.asarray(found)


def _check_masks(maps, masks):
    if maps.shape != masks.shape:
        raise ValueError(f"The maps are {maps.shape}, the masks {masks.shape}: each map needs one mask of its size.")
    if not masks.any(axis=(1, 2)).all():
        raise ValueError(f"Mask {int((~masks.any(axis=(1, 2))).argmax())} is empty: leave out such images.")


def modules(subject: Subject, image_shape: tuple[int, ...]) -> list[str]:
    """List the network's top-level modules with parameters, in the order of creation: from input to classifier."""
    names = []

    def build(key):
        names.extend(subject.model.init(key, jnp.zeros((1, *subject.view.shape(image_shape)), jnp.float32))["params"])

    jax.eval_shape(build, jax.random.key(0))
    return names


def randomised(subject: Subject, image_shape: tuple[int, ...], seed: int = 0):
    """Re-initialise a network cumulatively, module by module, from the classifier down to the input (sanity check).

    Args:
        subject: the trained network.
        image_shape: (H, W, C).
        seed: seed of the new weights.

    Yields:
        (name of the last module that was re-initialised, the `Subject`), for each module that has parameters.
    """
    image = jnp.zeros((1, *subject.view.shape(image_shape)), jnp.float32)
    fresh = jax.jit(subject.model.init)(jax.random.key(seed), image)
    variables = {kind: dict(tree) for kind, tree in subject.variables.items()}
    for name in reversed(modules(subject, image_shape)):
        for kind in variables:
            if name in variables[kind]:
                variables[kind] = {**variables[kind], name: fresh[kind][name]}
        yield name, subject.replaced(dict(variables))


def sanity(subject: Subject, explanation, images: np.ndarray, classes: np.ndarray, seed: int = 0) -> dict[str, float]:
    """Compare the maps of the trained network with those of the networks of `randomised`.

    A correlation near 1 means that the map does not depend on what the network learned.

    Args:
        subject: the trained network.
        explanation: as for `Subject.maps`.
        images: [N, H, W, C] uint8.
        classes: [N] int, the class to explain for each image, the same for all networks.
        seed: seed of the new weights.

    Returns:
        module -> mean Spearman correlation (0 where one map is constant) after this module and all modules between
        this one and the classifier, inclusive, are re-initialised.
    """
    trained = subject.maps(explanation, images, classes)
    drawn = randomised(subject, images.shape[1:], seed)
    return {name: float(spearman(trained, s.maps(explanation, images, classes)).mean()) for name, s in drawn}
