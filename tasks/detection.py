"""Detection: a label is the set of the objects in an image, with their boxes and classes.

Losses on labels: RetinaNet: Lin, Goyal, Girshick, He, Dollár. Focal Loss for Dense Object Detection. ICCV 2017.
arXiv:1708.02002. Faster R-CNN: Ren, He, Girshick, Sun. NIPS 2015. arXiv:1506.01497. Both as torchvision computes them.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from models.detectors import boxes as box
from models.detectors.detections import ROI_WEIGHTS
from models.detectors.losses import focal, smooth_l1
from models.detectors.matching import BETWEEN, match
from options import between, not_negative, positive
from tasks import coco_metrics

HUBER = 1 / 9  # where the smooth L1 loss of Faster R-CNN becomes linear
RPN, ROI = 0, 1  # the update's key is folded with these numbers before candidates are drawn


@dataclasses.dataclass(frozen=True)
class Detection:
    """Each image has any number of objects.

    Source: focal loss and L1 loss of RetinaNet; the losses of both stages of Faster R-CNN

    A batch's `label` is a `data.Objects`. Crowds are never targets.

    A method sees the class scores as rows, as if each row were an image: those of the `rows` likeliest places of every
    image. For RetinaNet these places are the anchors in which the teacher sees some class. The row is [K + 1]: the K
    logits, and 0 for the background. (A softmax of that row is close to RetinaNet's sigmoids where at most one class is
    likely.) For Faster R-CNN the places are the student's best proposals, and the second stage of both networks looks
    at them, as in mdistiller. The row is [K + 1], background first. A row's label is the class of the object that
    overlaps by half (`high`) or more, else the background; -1 for an anchor with an overlap from `low` to `high`.

    Attributes:
        labelled: always True.
        class_names: K names.
        rows: places of each image that a method compares.
        high, low: RetinaNet's anchors learn an object from this overlap on, and the background below `low`.
        rpn_high, rpn_low: the same for the anchors of Faster R-CNN's first stage.
        rpn_sample, rpn_positive: anchors of each image that the first stage learns from, and the largest share of
            objects among them; 0: all.
        roi_sample, roi_positive: the same for the proposals of the second stage.
    """

    labelled: bool = True
    class_names: tuple[str, ...] = ()
    rows: int = positive(100)
    high: float = between(0, 1, 0.5)
    low: float = between(0, 1, 0.4)
    rpn_high: float = between(0, 1, 0.7)
    rpn_low: float = between(0, 1, 0.3)
    rpn_sample: int = not_negative(256)
    rpn_positive: float = between(0, 1, 0.5)
    roi_sample: int = not_negative(512)
    roi_positive: float = between(0, 1, 0.25)

    term: ClassVar[str] = "detection"
    main: ClassVar[str] = "AP"
    info: ClassVar[dict] = {}
    compares: ClassVar[bool] = False
    untrained: ClassVar[tuple[str, ...]] = ()
    second_label: ClassVar[None] = None  # images are not mixed

    # The loss on labels.

    def loss(self, outputs, batch) -> tuple[jax.Array, dict]:
        """The loss on labels.

        Args:
            outputs: a detector's.
            batch: `label` is a `data.Objects` of [B]; `key` draws the candidates of Faster R-CNN.

        Returns:
            - scalar: the sum of the parts.
            - part -> scalar: "class_loss" and "box_loss"; for Faster R-CNN also "rpn_class_loss", "rpn_box_loss".
        """
        _check_detector("the network", outputs)
        if "proposals" in outputs.features:
            parts = self._first_stage(outputs, batch) | self._second_stage(outputs, batch)
        else:
            parts = self._one_stage(outputs, batch.label)
        return sum(parts.values()), parts

    def _one_stage(self, outputs, objects) -> dict:
        """RetinaNet's parts: for each image divided by the number of its anchors with an object; the images' mean."""
        anchors, classes = outputs.features["anchors"], outputs.logits.shape[-1]

        def one(logits, deltas, objects):
            matches, found = self._matched(anchors, objects, self.high, self.low, True)
            wanted = jax.nn.one_hot(jnp.where(found, objects.classes[matches], -1), classes)
            rows = jnp.sum(focal(logits, wanted), axis=1)
            codes = box.encode(objects.boxes[matches], anchors)
            count = _at_least_one(jnp.sum(found))
            scores = jnp.sum(jnp.where(matches == BETWEEN, 0.0, rows)) / count
            return scores, jnp.sum(jnp.where(found[:, None], jnp.abs(deltas - codes), 0.0)) / count

        scores, boxes = jax.vmap(one)(outputs.logits, outputs.features["boxes"], objects)
        return {"class_loss": jnp.mean(scores), "box_loss": jnp.mean(boxes)}

    def _first_stage(self, outputs, batch) -> dict:
        """The parts of Faster R-CNN's proposals, over the sampled anchors of all images together."""
        anchors, features = outputs.features["anchors"], outputs.features

        def one(logits, deltas, objects, key):
            matches, found = self._matched(anchors, objects, self.rpn_high, self.rpn_low, True)
            absent = (matches != BETWEEN) & ~found
            found, absent = _sampled(found, absent, self.rpn_sample, self.rpn_positive, key)
            rows = jnp.logaddexp(0.0, jnp.where(found, -logits, logits))
            codes = box.encode(objects.boxes[matches], anchors)
            errors = jnp.sum(smooth_l1(deltas, codes, HUBER), axis=1)
            sums = jnp.sum(jnp.where(found | absent, rows, 0.0)), jnp.sum(jnp.where(found, errors, 0.0))
            return *sums, jnp.sum(found | absent)

        keys = _keys(batch, RPN)
        scores, boxes, count = jax.vmap(one)(features["rpn_logits"][..., 0], features["rpn_boxes"], batch.label, keys)
        count = _at_least_one(jnp.sum(count))
        return {"rpn_class_loss": jnp.sum(scores) / count, "rpn_box_loss": jnp.sum(boxes) / count}

    def _second_stage(self, outputs, batch) -> dict:
        """The parts of Faster R-CNN's second stage, over the sampled proposals of all images together.

        The objects themselves are proposals, too.
        """
        proposals = jax.lax.stop_gradient(outputs.features["proposals"])

        def chosen(proposals, objects, key):
            candidates = jnp.concatenate([proposals, objects.boxes])
            there = box.areas(candidates) > 0
            there = there.at[len(proposals) :].set(objects.targets)
            matches, found = self._matched(candidates, objects, 0.5, 0.5, False)
            found, absent = _sampled(found & there, ~found & there, self.roi_sample, self.roi_positive, key)
            size = min(self.roi_sample or len(candidates), len(candidates))
            rows = jax.lax.top_k((found | absent).astype(jnp.float32), size)[1]
            kept, found = (found | absent)[rows], found[rows]
            label = jnp.where(found, objects.classes[matches[rows]] + 1, 0)
            codes = box.encode(objects.boxes[matches[rows]], candidates[rows], ROI_WEIGHTS)
            return candidates[rows], label, codes, found, kept

        boxes, label, codes, found, kept = jax.vmap(chosen)(proposals, batch.label, _keys(batch, ROI))
        logits, deltas = outputs.classify((outputs.features, boxes))
        rows = -jnp.take_along_axis(jax.nn.log_softmax(logits), label[..., None], axis=-1)[..., 0]
        own = jnp.take_along_axis(deltas, label[..., None, None], axis=2)[..., 0, :]
        errors = jnp.sum(smooth_l1(own, codes, HUBER), axis=-1)
        count = _at_least_one(jnp.sum(kept))
        scores = jnp.sum(jnp.where(kept, rows, 0.0)) / count
        return {"class_loss": scores, "box_loss": jnp.sum(jnp.where(found, errors, 0.0)) / count}

    @staticmethod
    def _matched(candidates, objects, high, low, low_quality) -> tuple[jax.Array, jax.Array]:
        """Returns (the object of each candidate box, or a number below 0; whether there is one), for one image."""
        valid = objects.targets
        matches = match(box.iou(objects.boxes, candidates), valid, high, low, low_quality)
        return matches, matches >= 0

    # What a method compares.

    def aligned(self, student, teacher, batch) -> tuple:
        """Returns (student, teacher, batch) with class scores as rows [B * rows, K + 1]; features stay maps of [B].

        The batch's `label` has the rows' labels [B * rows], -1 where an anchor is neither an object nor background.

        Raises:
            ValueError: a network is no detector, or the two are of two kinds or have other anchors.
        """
        _same_kind(student, teacher)
        if "proposals" in student.features:
            boxes = jax.lax.stop_gradient(student.features["proposals"][:, : self.rows])
            logits = [net.classify((net.features, boxes))[0] for net in (student, teacher)]
            levels, background, first = (0.5, 0.5), 0, 1
        else:
            count = min(self.rows, teacher.logits.shape[1])
            index = jax.lax.top_k(jnp.max(teacher.logits, axis=-1), count)[1]
            rows = (jnp.take_along_axis(net.logits, index[..., None], axis=1) for net in (student, teacher))
            logits = [jnp.concatenate([z, jnp.zeros_like(z[..., :1])], axis=-1) for z in rows]
            boxes = student.features["anchors"][index]
            levels, background, first = (self.high, self.low), student.logits.shape[-1], 0

        def labels(boxes, objects):
            matches, found = self._matched(boxes, objects, *levels, False)
            return jnp.where(found, objects.classes[matches] + first, jnp.where(matches == BETWEEN, -1, background))

        label = jax.vmap(labels)(boxes, batch.label)
        student, teacher = (
            net.replace(logits=z.reshape(-1, z.shape[-1])) for net, z in zip((student, teacher), logits, strict=True)
        )
        return student, teacher, batch.replace(label=label.reshape(-1), objects=batch.label)

    # Tests.

    def answer(self, outputs) -> jax.Array:
        """Returns the detections [B, D, 6] float32: rows (x1, y1, x2, y2, score, class), by falling score.

        Boxes are in pixels of the image. Where there is no detection, the score is 0 and the class -1. Of class scores
        that are not finite the rows are NaN.
        """
        return outputs.asked().model.found(outputs)

    def metrics(self, detections: np.ndarray, objects, teacher: np.ndarray | None = None) -> dict:
        """Computes COCO's twelve numbers of a split, in percent; without those that are not defined.

        Args:
            detections: [N, D, 6], the answers.
            objects: `data.Objects` of [N], NumPy arrays.
            teacher: the teacher's answers; not compared.

        Raises:
            NonFiniteError: detections that are not finite.
            UserError: pycocotools is not installed.
        """
        return self.in_full(detections, objects, teacher)[0]

    def in_full(self, detections: np.ndarray, objects, teacher: np.ndarray | None = None) -> tuple[dict, dict]:
        """Returns (`metrics`; class name -> AP in percent, without the classes that have no object)."""
        del teacher
        edge = np.tile(np.asarray(objects.size)[:, None, ::-1], 2)  # an image may end before its padding
        cut = np.concatenate([np.clip(detections[..., :4], 0, edge), detections[..., 4:]], axis=-1)
        measured = coco_metrics.measure(cut, objects, self.class_names)
        return measured.metrics, measured.per_class()


def _at_least_one(count: jax.Array) -> jax.Array:
    """A count as a divisor, float32."""
    return jnp.maximum(count, 1).astype(jnp.float32)


def _keys(batch, number: int) -> jax.Array:
    """A key for each image of the batch; the batch has none while a state is initialised."""
    key = jax.random.key(0) if batch.key is None else batch.key
    return jax.random.split(jax.random.fold_in(key, number), len(batch.label))


def _sampled(found, absent, count: int, share: float, key) -> tuple[jax.Array, jax.Array]:
    """Draws `count` of the candidates, at most `share` of them from `found`; 0: all. [A] bool each, as given."""
    if not count:
        return found, absent
    draws = jax.random.uniform(key, found.shape)

    def first(chosen, most):
        ranks = jnp.argsort(jnp.argsort(jnp.where(chosen, draws, 2.0)))
        return chosen & (ranks < most)

    found = first(found, int(count * share))
    return found, first(absent, count - jnp.sum(found))


def _check_detector(who: str, outputs) -> None:
    if "anchors" not in outputs.features:
        raise ValueError(f"{who} is no detector, and the labels are boxes. Take one, such as RetinaNet_ResNet18.")


def _same_kind(student, teacher) -> None:
    for who, outputs in (("the student", student), ("the teacher", teacher)):
        _check_detector(who, outputs)
    if ("proposals" in student.features) != ("proposals" in teacher.features):
        raise ValueError("one network is a RetinaNet, the other a Faster R-CNN. Take two of one kind.")
    if "proposals" in student.features:
        return
    for fact in ("anchor_size", "levels"):
        own, theirs = (getattr(net.asked().model, fact, None) for net in (student, teacher))
        if own != theirs:
            raise ValueError(
                f"'{fact}' of the student is {own}, of the teacher {theirs}, and class scores are compared anchor by "
                "anchor. Take networks with equal anchors."
            )
