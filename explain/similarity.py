"""Similarity of two networks' maps, image by image, and confidence intervals for differences of similarity.

Maps are [N, H, W] float. Every measure computes in float64 with NumPy and returns [N] float64: 1 where the two maps are
equal.

Paper: Wang, Bovik, Sheikh, Simoncelli. Image Quality Assessment: From Error Visibility to Structural Similarity. IEEE
TIP 2004 (SSIM).
"""

import numpy as np
from scipy import stats

TOP = 0.2  # share of the pixels that `top_overlap` compares


def _flat(first, second):
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if first.shape != second.shape or first.ndim != 3:
        raise ValueError(f"Maps must be [N, H, W] and of one shape; got {first.shape} and {second.shape}.")
    return first.reshape(len(first), -1), second.reshape(len(second), -1)


def cosine(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the cosine of the angle between two maps: 0 if one map is all zeros, 1 if both are."""
    a, b = _flat(first, second)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    equal = (a == b).all(axis=1).astype(np.float64)
    return np.divide((a * b).sum(axis=1), norms, out=equal, where=norms > 0)


def spearman(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return Spearman's rank correlation; ties get their mean rank. It is 0 if one map is constant, 1 if both are."""
    a, b = (stats.rankdata(x, axis=1) for x in _flat(first, second))
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    both = ((a == 0).all(axis=1) & (b == 0).all(axis=1)).astype(np.float64)
    return np.divide((a * b).sum(axis=1), norms, out=both, where=norms > 0)


def stretched(maps: np.ndarray) -> np.ndarray:
    """Shift and scale each map [N, H, W] to [0, 1]; a constant map becomes zeros."""
    maps = np.asarray(maps, np.float64)
    low, high = maps.min(axis=(1, 2), keepdims=True), maps.max(axis=(1, 2), keepdims=True)
    return np.divide(maps - low, high - low, out=np.zeros_like(maps), where=high > low)


def ssim(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the structural similarity of the stretched maps, mean over all windows inside the map.

    Window and constants are the paper's: 11x11 Gaussian of standard deviation 1.5, K1 = 0.01, K2 = 0.03, L = 1.
    Deviation: along a side of less than 11 pixels, the window has the largest odd size that fits.
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
    """Return Gaussian-weighted means over all windows inside maps [N, H, W]."""
    for axis in (1, 2):
        size = min(11, maps.shape[axis] - 1 + maps.shape[axis] % 2)
        offsets = np.arange(size) - size // 2
        weights = np.exp(-(offsets**2) / (2 * 1.5**2))
        windows = np.lib.stride_tricks.sliding_window_view(maps, size, axis=axis)
        maps = windows @ (weights / weights.sum())
    return maps


def top_overlap(first: np.ndarray, second: np.ndarray, top: float = TOP) -> np.ndarray:
    """Return the share of the most important pixels that two maps have in common.

    Pixels that tie for the last places belong to the most important ones with an equal fraction each. The overlap of a
    pixel is the smaller one of its fractions in the two maps.

    Args:
        first, second: [N, H, W].
        top: the share of the pixels that count as most important, above 0 and at most 1.
    """
    if not 0 < top <= 1:
        raise ValueError(f"'top' must be a share of the pixels, above 0 and at most 1; got {top}.")
    a, b = _flat(first, second)
    count = max(1, round(top * a.shape[1]))
    return np.minimum(_members(a, count), _members(b, count)).sum(axis=1) / count


def _members(values: np.ndarray, count: int) -> np.ndarray:
    """Return the fraction [N, P] with which each pixel is among the `count` largest of its row; rows sum to `count`."""
    last = np.sort(values, axis=1)[:, -count][:, None]
    above, tied = values > last, values == last
    left = count - above.sum(axis=1, keepdims=True)
    return above + tied * left / tied.sum(axis=1, keepdims=True)


MEASURES = {"cosine": cosine, "spearman": spearman, "ssim": ssim, "top_overlap": top_overlap}


def similarity(first: np.ndarray, second: np.ndarray) -> dict[str, np.ndarray]:
    """Compute every measure of two networks' maps [N, H, W]: name -> [N]."""
    return {name: measure(first, second) for name, measure in MEASURES.items()}


def paired_interval(first: np.ndarray, second: np.ndarray) -> dict[str, float | str]:
    """Return the mean of `first - second` with the 95 % t interval of the paired differences.

    Args:
        first, second: [R, N], a measure of R runs (seeds) on the same N images. Row r of `first` is paired with row r
            of `second`.

    Returns:
        "mean", "low" and "high", and in "over" the values that the interval is computed from:
        "runs" for R > 1: the R differences of the means over images. The interval is valid for other seeds.
        "images" for R = 1: the N differences of the images. The interval is valid for these two networks only.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if first.shape != second.shape or first.ndim != 2 or first.size < 2:
        raise ValueError(f"Pairs need one shape [R, N] with two values or more; got {first.shape} and {second.shape}.")
    difference = first - second
    over, values = ("runs", difference.mean(axis=1)) if len(first) > 1 else ("images", difference[0])
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    mean = float(values.mean())
    return {"mean": mean, "low": mean - float(half), "high": mean + float(half), "over": over}
