"""Probes: how well embeddings tell the classes apart, without the network's own classifier.

    knn:     class of x = argmax_c sum_{i in N_k(x), y_i = c} exp(cos(x, x_i) / T)
    linear:  multinomial logistic regression on embeddings that are standardised per coordinate

The memory, or the training set of the regression, are embeddings with labels of the training split.

Sources: Wu, Xiong, Yu, Lin. Unsupervised Feature Learning via Non-Parametric Instance Discrimination. CVPR 2018.
arXiv:1805.01978 (the weighted vote). Caron, Touvron, Misra, Jegou, Mairal, Bojanowski, Joulin. Emerging Properties in
Self-Supervised Vision Transformers. ICCV 2021. arXiv:2104.14294 (k = 20, T = 0.07). DINO's linear probe is trained by
SGD on augmented images. The regression here is convex, on images without augmentation, so its answer is one number.
"""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np

NEIGHBOURS, TEMPERATURE = 20, 0.07
SCORES = 2**25  # similarities that are computed at once, at most
STEPS = 1000  # of the regression, at most


def knn(
    memory: np.ndarray,
    labels: np.ndarray,
    queries: np.ndarray,
    neighbours: int = NEIGHBOURS,
    temperature: float = TEMPERATURE,
) -> np.ndarray:
    """Classes by a weighted vote of the nearest neighbours, by cosine similarity.

    Args:
        memory: [N, D] float, embeddings with labels.
        labels: [N] int, from 0.
        queries: [M, D] float.
        neighbours: k; all of the memory votes where the memory is smaller.
        temperature: T, dimensionless.

    Returns:
        [M] int. Of equal votes the lowest class wins, and of equal similarities the earlier row of the memory votes.
    """
    neighbours, classes = min(neighbours, len(memory)), int(labels.max()) + 1
    size = min(len(queries), max(1, SCORES // len(memory)))
    memory, labels = jnp.asarray(_unit(memory)), jnp.asarray(labels)
    queries, found = _unit(queries), []
    for first in range(0, len(queries), size):
        rows = np.minimum(np.arange(first, first + size), len(queries) - 1)  # one size, so one compiled program
        found.append(np.asarray(_vote(memory, labels, queries[rows], neighbours, temperature, classes)))
    return np.concatenate(found)[: len(queries)]


@functools.partial(jax.jit, static_argnames=("neighbours", "temperature", "classes"))
def _vote(memory, labels, queries, neighbours, temperature, classes):
    similarity = jnp.matmul(queries, memory.T, precision=jax.lax.Precision.HIGHEST)
    nearest, rows = jax.lax.top_k(similarity, neighbours)
    votes = jax.nn.one_hot(labels[rows], classes) * jnp.exp(nearest / temperature)[..., None]
    return jnp.argmax(votes.sum(axis=1), axis=-1)


def _unit(x: np.ndarray) -> np.ndarray:
    x = np.asarray(x, np.float32)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def linear(memory: np.ndarray, labels: np.ndarray, queries: np.ndarray) -> tuple[np.ndarray, bool]:
    """Classes by logistic regression, scikit-learn's with its own L2 penalty (C = 1), by L-BFGS in float64.

    Args:
        memory: [N, D] float, embeddings with labels.
        labels: [N] int; two classes at least.
        queries: [M, D] float.

    Returns:
        Classes [M] int, and whether the regression converged within `STEPS` steps.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(np.asarray(memory, np.float64))  # a constant coordinate becomes 0
    regression = LogisticRegression(max_iter=STEPS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        regression.fit(scaler.transform(np.asarray(memory, np.float64)), labels)
    classes = regression.predict(scaler.transform(np.asarray(queries, np.float64)))
    return classes, bool((regression.n_iter_ < STEPS).all())
