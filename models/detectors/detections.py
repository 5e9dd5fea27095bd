"""From a detector's answers to objects: rows (x1, y1, x2, y2, score, class) in the order of falling scores.

The steps and the default numbers are torchvision's. Boxes are clipped to the `size` that the caller gives. The library
gives the square with its padding, and cuts boxes at the picture's edges afterwards.
"""

import jax
import jax.numpy as jnp

from models.detectors.boxes import clip, decode
from models.detectors.nms import nms

ROI_WEIGHTS = (10.0, 10.0, 5.0, 5.0)  # of the codes of Faster R-CNN's second head (`boxes.encode`)
NOTHING = (0.0, 0.0, 0.0, 0.0, 0.0, -1.0)  # the row where there is no object


def of_anchors(
    logits: jax.Array,
    codes: jax.Array,
    anchors: jax.Array,
    counts: tuple[int, ...],
    size: jax.Array,
    *,
    score: float = 0.05,
    threshold: float = 0.5,
    candidates: int = 1000,
    most: int = 300,
) -> jax.Array:
    """The objects that a one-stage detector finds.

    Args:
        logits: [B, A, K], a sigmoid for each class.
        codes: [B, A, 4], relative to the anchors.
        anchors: [A, 4].
        counts: anchors of each level; their sum is A. Static.
        size: [B, 2] float32, (height, width) of each image.
        score: a pair of anchor and class counts if its score is above.
        threshold: of the IoU, for `nms`.
        candidates: pairs of each level that go on, the best ones. Static.
        most: objects of an image. Static.

    Returns:
        [B, most, 6] float32; rows without an object are `NOTHING`. Boxes that the clipping left empty stay.
    """
    levels = _levels(counts, logits.astype(jnp.float32), codes, anchors)
    chosen = [_best(*level, candidates, jax.nn.sigmoid) for level in levels]
    scores, labels, boxes = (jnp.concatenate(parts, axis=1) for parts in zip(*chosen, strict=True))
    return _rows(clip(boxes, size), scores, labels, scores > score, threshold, most)


def of_proposals(
    logits: jax.Array,
    codes: jax.Array,
    proposals: jax.Array,
    size: jax.Array,
    *,
    score: float = 0.05,
    threshold: float = 0.5,
    smallest: float = 1e-2,
    most: int = 100,
) -> jax.Array:
    """The objects that the second head of a two-stage detector finds.

    Args:
        logits: [B, P, K + 1]; column 0 is the background.
        codes: [B, P, K + 1, 4], relative to the proposals, for each class.
        proposals: [B, P, 4]; empty boxes are padding.
        size, score, threshold, most: as in `of_anchors`.
        smallest: sides of a box that counts, in pixels.

    Returns:
        As `of_anchors`. The class of column k is k - 1.
    """
    count, number, columns = logits.shape
    scores = jax.nn.softmax(logits.astype(jnp.float32))[..., 1:]
    boxes = decode(codes[..., 1:, :], proposals[:, :, None], ROI_WEIGHTS).reshape(count, -1, 4)
    boxes = clip(boxes, size)
    scores = scores.reshape(count, -1)
    classes = jnp.broadcast_to(jnp.arange(number * (columns - 1)) % (columns - 1), scores.shape)
    valid = (scores > score) & _large(boxes, smallest)
    return _rows(boxes, scores, classes, valid, threshold, most)


def proposals(
    logits: jax.Array,
    codes: jax.Array,
    anchors: jax.Array,
    counts: tuple[int, ...],
    size: jax.Array,
    *,
    threshold: float = 0.7,
    candidates: int = 1000,
    smallest: float = 1e-3,
    most: int = 1000,
) -> tuple[jax.Array, jax.Array]:
    """The boxes that a two-stage detector looks at.

    Args:
        logits: [B, A, 1], of "an object is here".
        codes, anchors, counts, size, candidates, most: as in `of_anchors`.
        threshold: of the IoU, for `nms` within each level.
        smallest: sides of a box that counts, in pixels.

    Returns:
        (boxes [B, most, 4] in the order of falling scores, then empty boxes; scores [B, most], 0 for empty boxes).
    """
    chosen = [_best(*level, candidates) for level in _levels(counts, logits.astype(jnp.float32), codes, anchors)]
    levels = jnp.concatenate([jnp.full_like(parts[1], level) for level, parts in enumerate(chosen)], axis=1)
    scores, _, boxes = (jnp.concatenate(parts, axis=1) for parts in zip(*chosen, strict=True))
    scores, boxes = jax.nn.sigmoid(scores), clip(boxes, size)
    rows = _rows(boxes, scores, levels, _large(boxes, smallest), threshold, most)
    return rows[..., :4], rows[..., 4]


def _levels(counts, logits, codes, anchors):
    """(logits, codes, anchors) of each level."""
    start = 0
    for count in counts:
        own = slice(start, start + count)
        yield logits[:, own], codes[:, own], anchors[own]
        start += count


def _best(logits, codes, anchors, number, score=lambda x: x):
    """The best `number` pairs of anchor and class of a level: (scores, classes, boxes); of equal ones the first."""
    images, places, classes = logits.shape
    place = jnp.broadcast_to(jnp.arange(places, dtype=jnp.int32), (images, places))
    if classes > 1 and places > number:
        # The best pairs belong to the anchors whose best classes are the best: two short searches, not a long one.
        # The anchors keep their order, so that pairs of equal scores do.
        place = jnp.sort(jax.lax.top_k(score(jnp.max(logits, axis=-1)), number)[1], axis=-1)
        logits = jnp.take_along_axis(logits, place[..., None], axis=1)
    pairs = logits.shape[1] * classes
    scores, pair = jax.lax.top_k(score(logits).reshape(images, pairs), min(number, pairs))
    place = jnp.take_along_axis(place, pair // classes, axis=1)
    codes = jnp.take_along_axis(codes, place[..., None], axis=1)
    return scores, pair % classes, decode(codes, jnp.take(anchors, place, axis=0))


def _large(boxes, smallest):
    return jnp.all(boxes[..., 2:] - boxes[..., :2] >= smallest, axis=-1)


def _rows(boxes, scores, classes, valid, threshold, most):
    """The rows of the boxes that survive `nms`."""
    index, kept = jax.vmap(lambda *own: nms(*own, threshold, most))(boxes, scores, classes, valid)
    rows = jnp.concatenate([boxes, scores[..., None], classes[..., None].astype(jnp.float32)], axis=-1)
    rows = jnp.take_along_axis(rows, index[..., None], axis=1)
    return jnp.where(kept[..., None], rows, jnp.asarray(NOTHING))
