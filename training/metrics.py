"""What is measured on a split, from logits in host memory, in float64."""

import numpy as np

from registry import NonFiniteError

CONFIDENCE_BINS = 15


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """[N, K] -> [N, K] float64, natural log."""
    logits = np.asarray(logits, np.float64)
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def evaluate(logits: np.ndarray, labels: np.ndarray, teacher_logits: np.ndarray | None = None) -> dict[str, float]:
    """Measures of a classifier.

    Args:
        logits: [N, K].
        labels: [N] int.
        teacher_logits: [N, K] on the same examples, or None.

    Returns:
        top1, top5 (percent; top5 over min(5, K) classes), nll (nats), ece (expected calibration error, 15 equal-width
        bins of confidence, percent; Guo et al., ICML 2017); with a teacher also agreement (percent of examples with
        the same prediction) and kl (KL(teacher || student), nats, T = 1). All are means over the examples.

    Raises:
        NonFiniteError: logits that are not finite.
    """
    for who, values in (("network", logits), ("teacher", teacher_logits)):
        if values is not None and not np.isfinite(values).all():
            bad = int((~np.isfinite(values)).any(axis=1).sum())
            raise NonFiniteError(f"The {who}'s logits are not finite on {bad} of {len(values)} images.")
    log_p = log_softmax(logits)
    prediction = log_p.argmax(axis=1)
    correct = prediction == labels
    own = np.take_along_axis(log_p, labels[:, None].astype(np.int64), axis=1)
    earlier = (log_p == own) & (np.arange(log_p.shape[1]) < labels[:, None])  # ties rank as argmax ranks them
    rank = ((log_p > own) | earlier).sum(axis=1)
    confidence = np.exp(log_p.max(axis=1))
    bins = np.minimum((confidence * CONFIDENCE_BINS).astype(int), CONFIDENCE_BINS - 1)
    gap = np.bincount(bins, weights=confidence - correct, minlength=CONFIDENCE_BINS)
    result = {
        "top1": 100 * correct.mean(),
        "top5": 100 * (rank < 5).mean(),
        "nll": -own.mean(),
        "ece": 100 * np.abs(gap).sum() / len(labels),
    }
    if teacher_logits is not None:
        log_t = log_softmax(teacher_logits)
        result["agreement"] = 100 * (log_t.argmax(axis=1) == prediction).mean()
        result["kl"] = (np.exp(log_t) * (log_t - log_p)).sum(axis=1).mean()
    return {name: float(value) for name, value in result.items()}
