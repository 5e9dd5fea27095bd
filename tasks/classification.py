"""Classification: a label is the index of a class."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from registry import NonFiniteError

CONFIDENCE_BINS = 15


@dataclasses.dataclass(frozen=True)
class Classification:
    """Each image has one class; the loss on labels is the cross-entropy.

    Source: cross-entropy

    A batch's `label` is [B] int32, -1 where the label is withheld. In a mixed image `second_label` [B] is the label of
    the smaller part and `share` [B] float32 in [0.5, 1] the share of the larger part.

    Attributes:
        class_weights: K factors for the rows of each class in the label loss; empty: all rows count alike.
        class_names: K names, for `in_full`.
        labelled: False where the data have no labels: no loss on labels, and no metric that reads one.
        untrained: layers of the student that no loss reaches. With any of them, the student's logits mean nothing, and
            no metric compares them with a teacher's.
        label_smoothing: e, from 0 to 1. The target is 1 - e of the label and e / K of every class. With `class_weights`
            each class's part has its own weight: the rows of PyTorch's `CrossEntropyLoss(label_smoothing=e)`.
            Source: Szegedy, Vanhoucke, Ioffe, Shlens, Wojna, CVPR 2016, arXiv:1512.00567, section 7.
    """

    class_weights: tuple[float, ...] = ()
    class_names: tuple[str, ...] = ()
    labelled: bool = True
    untrained: tuple[str, ...] = ()
    label_smoothing: float = 0.0

    compares: ClassVar[bool] = True  # tests compare the answers of student and teacher

    @property
    def term(self) -> str:
        """The label loss's name among the terms of a step; empty: no label loss."""
        return "cross_entropy" if self.labelled else ""

    @property
    def main(self) -> str:
        """The metric that the best weights are chosen by, higher is better; empty: the last weights are the best."""
        return "top1" if self.labelled else "" if self.untrained else "agreement"

    @property
    def info(self) -> dict:
        """What `model.json` says in addition of a student that learned under this task."""
        return {"untrained": list(self.untrained)} if self.untrained else {}

    def answer(self, outputs) -> jax.Array:
        """Returns what a test keeps of a network's outputs: the logits [B, K]."""
        return outputs.logits

    def aligned(self, student, teacher, batch) -> tuple:
        """Returns (student, teacher, batch) as a method compares them: as they are."""
        return student, teacher, batch

    def loss(self, outputs, batch) -> tuple[jax.Array, dict]:
        """The loss on labels.

        Args:
            outputs: has `logits` [B, K] float32.
            batch: has `label`, and where images are mixed `second_label` and `share`.

        Returns:
            - scalar: the mean of the rows' losses over the labelled rows, weighted by the shares whose label is known;
              0 where no label is known. Natural log.
            - {"correct": share of the batch whose `label` is known and predicted, "labelled": share of the batch whose
              `label` is known}.

        `class_weights` multiply the rows' losses and are not in the divisor.
        """
        logits, label = outputs.logits, batch.label
        if logits.ndim != 2:
            raise ValueError(f"its class scores are {logits.shape}, those of a detector, and each image has one class")
        rows, weights = self.loss_rows(logits, batch), self.known(batch, logits.dtype)
        labelled = (label >= 0).astype(logits.dtype)
        correct = labelled * (jnp.argmax(logits, axis=-1) == label).astype(logits.dtype)
        whole = jnp.sum(weights)
        loss = jnp.sum(rows) / jnp.where(whole > 0, whole, 1.0)
        return loss, {"correct": jnp.mean(correct), "labelled": jnp.mean(labelled)}

    def loss_rows(self, logits: jax.Array, batch) -> jax.Array:
        """Returns each row's loss [..., B] from [..., B, K]: both labels, weighted by share; 0 if no label is known."""
        first, second = _weights(batch, logits.dtype)
        rows = first * self._row(logits, batch.label)
        return rows if batch.second_label is None else rows + second * self._row(logits, batch.second_label)

    def _row(self, logits: jax.Array, label: jax.Array) -> jax.Array:
        """Returns the cross-entropy times the weight of the label's class, with smoothed labels."""
        weights = jnp.asarray(self.class_weights, logits.dtype) if self.class_weights else None
        row = _cross_entropy(logits, label) if weights is None else weights[label] * _cross_entropy(logits, label)
        if not self.label_smoothing:
            return row
        every = -jax.nn.log_softmax(logits)
        every = jnp.mean(every if weights is None else weights * every, axis=-1)
        return (1 - self.label_smoothing) * row + self.label_smoothing * every

    def known(self, batch, dtype=jnp.float32) -> jax.Array:
        """Returns the share of each row's image whose label is known: [B] in [0, 1]."""
        first, second = _weights(batch, dtype)
        return first + second

    def soft_labels(self, batch, classes: int) -> jax.Array:
        """Returns the labels as probabilities [B, K] float32, mixed like the images. Rows without a label are 0.

        These labels are not smoothed: `label_smoothing` belongs to the loss.
        """
        soft = jax.nn.one_hot(batch.label, classes, dtype=jnp.float32)
        if batch.second_label is None:
            return soft
        share = batch.share[:, None].astype(jnp.float32)
        return share * soft + (1 - share) * jax.nn.one_hot(batch.second_label, classes, dtype=jnp.float32)

    def second_label(self, label: jax.Array) -> jax.Array:
        """Returns the labels [B] of the images that mixing adds, those of the row before (`data.mixing`)."""
        return jnp.roll(label, 1, axis=0)

    def metrics(self, logits: np.ndarray, labels: np.ndarray, teacher_logits: np.ndarray | None = None) -> dict:
        """Computes the metrics of a split, in float64 on the host.

        Args:
            logits: [N, K].
            labels: [N] int.
            teacher_logits: [N, K] on the same examples, or None.

        Returns:
            top1, top5 (percent; top5 over min(5, K) classes), nll (nats), ece (expected calibration error, 15
            equal-width bins of confidence, percent; Guo et al., ICML 2017); with a teacher also agreement (percent of
            examples with the same prediction) and kl (KL(teacher || student), nats, T = 1). All are means over the
            examples. Without labels: agreement and kl alone; with `untrained` layers: neither of these two.

        Raises:
            NonFiniteError: logits that are not finite.
        """
        for who, values in (("network", logits), ("teacher", teacher_logits)):
            if values is not None and not np.isfinite(values).all():
                bad = int((~np.isfinite(values)).any(axis=1).sum())
                raise NonFiniteError(f"The {who}'s logits are not finite on {bad} of {len(values)} images.")
        log_p = log_softmax(logits)
        prediction = log_p.argmax(axis=1)
        result = self._against_labels(log_p, labels) if self.labelled else {}
        if teacher_logits is not None and not self.untrained:
            log_t = log_softmax(teacher_logits)
            result["agreement"] = 100 * (log_t.argmax(axis=1) == prediction).mean()
            result["kl"] = (np.exp(log_t) * (log_t - log_p)).sum(axis=1).mean()
        return {name: float(value) for name, value in result.items()}

    def in_full(self, logits: np.ndarray, labels: np.ndarray, teacher_logits: np.ndarray | None = None) -> tuple:
        """Returns (`metrics`; class name -> correctly predicted share of its images, percent, empty without labels)."""
        classes = per_class(logits, labels, self.class_names) if self.labelled else {}
        return self.metrics(logits, labels, teacher_logits), classes

    def _against_labels(self, log_p: np.ndarray, labels: np.ndarray) -> dict:
        """Top1, top5, nll and ece, as `metrics` returns them, of log-probabilities [N, K] float64."""
        correct = log_p.argmax(axis=1) == labels
        own = np.take_along_axis(log_p, labels[:, None].astype(np.int64), axis=1)
        earlier = (log_p == own) & (np.arange(log_p.shape[1]) < labels[:, None])  # argmax's order in ties
        rank = ((log_p > own) | earlier).sum(axis=1)
        confidence = np.exp(log_p.max(axis=1))
        bins = np.minimum((confidence * CONFIDENCE_BINS).astype(int), CONFIDENCE_BINS - 1)
        gap = np.bincount(bins, weights=confidence - correct, minlength=CONFIDENCE_BINS)
        return {
            "top1": 100 * correct.mean(),
            "top5": 100 * (rank < 5).mean(),
            "nll": -own.mean(),
            "ece": 100 * np.abs(gap).sum() / len(labels),
        }


def balanced_weights(labels: np.ndarray, classes: int) -> tuple[float, ...]:
    """Returns K weights, inversely proportional to the classes' counts in `labels` [N], with mean 1 over the labels.

    A class without examples has weight 0.
    """
    counts = np.bincount(labels, minlength=classes)
    present = counts > 0
    return tuple(float(w) for w in np.where(present, len(labels) / (present.sum() * np.maximum(counts, 1)), 0.0))


def per_class(logits: np.ndarray, labels: np.ndarray, names: tuple[str, ...]) -> dict[str, float]:
    """Returns class name -> correctly predicted share of its images, percent; classes without images are left out."""
    right = logits.argmax(axis=1) == labels
    found = {name: right[labels == number] for number, name in enumerate(names)}
    return {name: 100 * float(rows.mean()) for name, rows in found.items() if len(rows)}


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """[N, K] -> [N, K] float64, natural log."""
    logits = np.asarray(logits, np.float64)
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def _weights(batch, dtype) -> tuple[jax.Array, jax.Array]:
    """Returns the weights of each row's first and second label, [B] and [B]; 0 where a label is withheld (-1)."""
    first = (batch.label >= 0).astype(dtype)
    if batch.second_label is None:
        return first, jnp.zeros_like(first)
    share = batch.share.astype(dtype)
    return share * first, (1 - share) * (batch.second_label >= 0).astype(dtype)


def _cross_entropy(logits: jax.Array, label: jax.Array) -> jax.Array:
    label = jnp.broadcast_to(jnp.maximum(label, 0), logits.shape[:-1])
    return optax.softmax_cross_entropy_with_integer_labels(logits, label)
