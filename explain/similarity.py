"""How alike two networks' maps are, image by image, and whether one student's are more like the teacher's.

Maps are [N, H, W] float; every measure gives [N] float64, 1 where the maps are equal. NumPy, in float64.

Paper: Wang, Bovik, Sheikh, Simoncelli. Image Quality Assessment: From Error Visibility to Structural Similarity. IEEE
TIP 2004 (SSIM).
"""

import numpy as np
from scipy import stats

TOP = 0.2  # share of the pixels in `top_overlap`


def _flat(first, second):
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if first.shape != second.shape or first.ndim != 3:
        raise ValueError(f"Maps must be [N, H, W] and of one shape; got {first.shape} and {second.shape}.")
    return first.reshape(len(first), -1), second.reshape(len(second), -1)


def cosine(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Cosine of the angle between the maps; 0 where exactly one is all zeros, 1 where both are."""
    a, b = _flat(first, second)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    equal = (a == b).all(axis=1).astype(np.float64)
    return np.divide((a * b).sum(axis=1), norms, out=equal, where=norms > 0)


def spearman(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Correlation of the pixels' ranks, equals sharing a mean rank; 0 where one map is constant, 1 where both are."""
    a, b = (stats.rankdata(x, axis=1) for x in _flat(first, second))
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    both = ((a == 0).all(axis=1) & (b == 0).all(axis=1)).astype(np.float64)
    return np.divide((a * b).sum(axis=1), norms, out=both, where=norms > 0)


def stretched(maps: np.ndarray) -> np.ndarray:
    """Each map [N, H, W] moved and scaled to [0, 1]; a constant one becomes zeros."""
    maps = np.asarray(maps, np.float64)
    low, high = maps.min(axis=(1, 2), keepdims=True), maps.max(axis=(1, 2), keepdims=True)
    return np.divide(maps - low, high - low, out=np.zeros_like(maps), where=high > low)


def ssim(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Structural similarity of the stretched maps, mean over the windows that lie inside.

    The paper's window, 11x11 Gaussian of deviation 1.5, and constants K1 = 0.01, K2 = 0.03 with L = 1. A side of less
    than 11 pixels has the largest odd window that fits.
    """
    _flat(first, second)
    a, b = stretched(first), stretched(second)
    mean_a, mean_b = _window(a), _window(b)
    var_a, var_b = _window(a * a) - mean_a**2, _window(b * b) - mean_b**2
    covariance = _window(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + 1e-4) / (mean_a**2 + mean_b**2 + 1e-4)
    structure = (2 * covariance + 9e-4) / (var_a + var_b + 9e-4)
    return (luminance * structure).mean(axis=(1, 2))


def _window(maps: np.ndarray) -> np.ndarray:
    """Gaussian means of [N, H, W] over all windows that lie inside."""
    for axis in (1, 2):
        size = min(11, maps.shape[axis] - 1 + maps.shape[axis] % 2)
        offsets = np.arange(size) - size // 2
        weights = np.exp(-(offsets**2) / (2 * 1.5**2))
        windows = np.lib.stride_tricks.sliding_window_view(maps, size, axis=axis)
        maps = windows @ (weights / weights.sum())
    return maps


def top_overlap(first: np.ndarray, second: np.ndarray, top: float = TOP) -> np.ndarray:
    """Share of the `top` most important pixels that the maps have in common.

    Pixels that tie for the last places are in with an equal fraction each; the overlap of a pixel is the lesser of its
    two fractions.
    """
    if not 0 < top <= 1:
        raise ValueError(f"'top' is a share of the pixels above 0 and at most 1; got {top}.")
    a, b = _flat(first, second)
    count = max(1, round(top * a.shape[1]))
    return np.minimum(_members(a, count), _members(b, count)).sum(axis=1) / count


def _members(values: np.ndarray, count: int) -> np.ndarray:
    """[N, P] -> how much each pixel is among its map's `count` largest, in [0, 1], with sum `count`."""
    last = np.sort(values, axis=1)[:, -count][:, None]
    above, tied = values > last, values == last
    left = count - above.sum(axis=1, keepdims=True)
    return above + tied * left / tied.sum(axis=1, keepdims=True)


MEASURES = {"cosine": cosine, "spearman": spearman, "ssim": ssim, "top_overlap": top_overlap}


def similarity(first: np.ndarray, second: np.ndarray) -> dict[str, np.ndarray]:
    """Every measure of two networks' maps [N, H, W]: name -> [N]."""
    return {name: measure(first, second) for name, measure in MEASURES.items()}


def paired_interval(first: np.ndarray, second: np.ndarray, confidence: float = 0.95) -> dict[str, float | str]:
    """How much more `first` has than `second`, with a t interval of the paired differences.

    Args:
        first, second: [R, N], a measure of R runs (seeds) on the same N images; row r of one belongs to row r of the
            other.
        confidence: of the interval.

    Returns:
        mean, low, high, and over: "runs" where R > 1: the interval is of the R differences of the means over images,
        so it speaks of other seeds too. "images" for R = 1: of the N differences, so it speaks of these two networks
        alone.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if first.shape != second.shape or first.ndim != 2 or first.size < 2:
        raise ValueError(f"Pairs need [R, N] of one shape with two values at least; got {first.shape}, {second.shape}.")
    difference = first - second
    over, values = ("runs", difference.mean(axis=1)) if len(first) > 1 else ("images", difference[0])
    half = stats.t.ppf((1 + confidence) / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return {"mean": float(values.mean()), "low": float(values.mean() - half), "high": float(values.mean() + half)} | {
        "over": over
    }
