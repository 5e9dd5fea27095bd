"""PHI-S: a teacher's features, rotated and scaled by one number so that every channel has mean 0 and variance 1.

    x' = H U^T (x - mean) / a,   U diag(l) U^T the covariance of x,   a^2 = mean of l

H is an orthonormal Hadamard matrix: all its entries are +-1 / sqrt(C), so each channel of x' has the variance
sum_k l_k / C / a^2 = 1. The change is a rotation and one scale, so distances keep their ratios, and no direction of
little variance is blown up, as whitening does.

Paper: Ranzinger, Barker, Heinrich, Molchanov, Catanzaro, Tao. PHI-S: Distribution Balancing for Label-Free
Multi-Teacher Distillation. ICLR 2025. arXiv:2410.01680.

Several teachers' losses add up on equal terms only where their features have equal scales. The positions of a map, and
the tokens of a transformer, are rows like any other. Deviations:

- The statistics are those of the first `IMAGES` training images without augmentation. The paper takes training batches.
- Hadamard matrices are Sylvester's, Paley's two kinds of a prime, and Kronecker products of these. For other sizes the
  released code takes random signs, made orthonormal, which make the variances nearly equal. Here the signs follow from
  the size, and plane rotations make the variances equal.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import data
from models import Outputs, Player
from models.traces import read_leaves
from registry import UserError

IMAGES, BATCH = 2048, 64
COLLECTION = "phi_s"  # beside "params" and "batch_stats" in the teacher's variables: tap -> {"mean", "matrix"}


@functools.cache
def hadamard(size: int) -> np.ndarray | None:
    """An orthonormal matrix [size, size] float64 with entries +-1 / sqrt(size); None where no construction is known."""
    signs = _signs(size)
    return None if signs is None else signs / math.sqrt(size)


@functools.cache
def _signs(size: int) -> np.ndarray | None:
    if size <= 2:
        return np.array([[1.0, 1.0], [1.0, -1.0]])[:size, :size]
    if size % 4:
        return None
    if _is_prime(size - 1):  # Paley's first: size - 1 is 3 modulo 4
        core = _residues(size - 1)
        border = np.block([[np.zeros((1, 1)), np.ones((1, size - 1))], [-np.ones((size - 1, 1)), core]])
        return border + np.eye(size)
    half = size // 2
    if half % 4 == 2 and _is_prime(half - 1):  # Paley's second: half - 1 is 1 modulo 4
        core = _residues(half - 1)
        border = np.block([[np.zeros((1, 1)), np.ones((1, half - 1))], [np.ones((half - 1, 1)), core]])
        return np.kron(border, [[1.0, 1.0], [1.0, -1.0]]) + np.kron(np.eye(half), [[1.0, -1.0], [-1.0, -1.0]])
    for factor in range(2, size // 2 + 1):
        if size % factor == 0:
            one, other = _signs(factor), _signs(size // factor)
            if one is not None and other is not None:
                return np.kron(one, other)
    return None


def _residues(q: int) -> np.ndarray:
    """[q, q]: 1 where i - j is a square modulo the prime q, 0 where i = j, else -1."""
    kind = np.full(q, -1.0)
    kind[np.arange(1, q) ** 2 % q] = 1.0
    kind[0] = 0.0
    return kind[(np.arange(q)[:, None] - np.arange(q)) % q]


def _is_prime(q: int) -> bool:
    return q > 1 and all(q % factor for factor in range(2, math.isqrt(q) + 1))


def balancing(variances: np.ndarray) -> np.ndarray:
    """An orthonormal matrix R for which all diagonal entries of R diag(variances) R^T are equal.

    Args:
        variances: [C] float64, not negative.

    Returns:
        [C, C] float64: Hadamard's matrix where one is known.
    """
    size = len(variances)
    known = hadamard(size)
    if known is not None:
        return known
    signs = np.where(np.random.default_rng(size).random((size, size)) < 0.5, -1.0, 1.0)
    matrix = np.linalg.qr(signs)[0].T
    after, mean = matrix * variances @ matrix.T, variances.mean()
    for i in range(size - 1):
        gap = np.diagonal(after) - mean
        if abs(gap[i]) <= 1e-12 * mean:
            continue
        # Row i and a later row whose variance errs to the other side are turned until row i has the mean variance.
        j = i + 1 + int(np.argmax(-np.sign(gap[i]) * gap[i + 1 :]))
        if gap[i] * gap[j] >= 0:  # nothing but rounding is left
            continue
        root = math.sqrt(after[i, j] ** 2 - gap[i] * gap[j])
        tangent = gap[i] / (-(after[i, j] + math.copysign(root, after[i, j])))
        cosine = 1 / math.hypot(1, tangent)
        turn = cosine * np.array([[1.0, tangent], [-tangent, 1.0]])
        rows = [i, j]
        matrix[rows] = turn @ matrix[rows]
        after[rows] = turn @ after[rows]
        after[:, rows] = after[:, rows] @ turn.T
    return matrix


def statistics(blocks: Iterator[np.ndarray]) -> dict[str, np.ndarray]:
    """The mean and the matrix that standardise features.

    Args:
        blocks: [M, C] each, some rows after the other, any float type; computed in float64.

    Returns:
        {"mean": [C] float32, "matrix": [C, C] float32}: x' = matrix (x - mean). Constant features become 0.
    """
    count, mean, scatter = 0, 0.0, 0.0
    for block in blocks:  # merged block by block, without the difference of two large sums
        rows = np.asarray(block, np.float64)
        own = rows.mean(axis=0)
        apart, both = own - mean, count + len(rows)
        scatter = scatter + (rows - own).T @ (rows - own) + np.outer(apart, apart) * (count * len(rows) / both)
        mean, count = mean + apart * (len(rows) / both), both
    variances, directions = np.linalg.eigh(scatter / count)
    variances = np.maximum(variances, 0.0)
    scale = math.sqrt(variances.mean()) or 1.0
    matrix = balancing(variances) @ directions.T / scale
    return {"mean": mean.astype(np.float32), "matrix": matrix.astype(np.float32)}


def apply(x: jax.Array, mean: jax.Array, matrix: jax.Array) -> jax.Array:
    """matrix (x - mean) along the last axis, computed in float32, in x's type: [..., C]."""
    centred = x.astype(jnp.float32) - mean
    return jnp.matmul(centred, matrix.T, precision=jax.lax.Precision.HIGHEST).astype(x.dtype)


@dataclasses.dataclass(frozen=True)
class Standardised(Player):
    """A teacher whose features are standardised; its variables have the statistics as `COLLECTION`.

    Logits stay as they are. The classifier cannot be asked, since it reads the network's own embedding.
    """

    def forward(self, variables, image, **options) -> tuple[Outputs, dict]:
        outputs, stats = super().forward(_without_facts(variables), image, **options)
        changed = {tap: apply(outputs.features[tap], **facts) for tap, facts in variables[COLLECTION].items()}
        features = {**outputs.features, **changed}
        return outputs.replace(features=features, head=jax.tree_util.Partial(_refuse), source=None), stats


def _refuse(*_):
    raise UserError(
        "'standardise' 'phi_s' changes the teacher's embedding, and the method asks the teacher's classifier.\n"
        "Leave --config.transfer_options.standardise out, or take another method."
    )


def standardised(strategy: Any, abstract: Callable) -> Any:
    """The strategy with teachers whose features are standardised: those that the method reads.

    Found by tracing, so nothing is computed: the statistics are 0 until `measured` has asked the teachers.

    Args:
        strategy: `transfer.offline.Offline`.
        abstract: strategy -> (state, batch, key) of a step as shapes.

    Raises:
        UserError: the method reads no feature of a teacher, or more than features and logits.
    """
    method, (players, variables) = strategy.method, _teachers(strategy)
    name = "+".join(type(part).__name__ for part in getattr(method, "parts", (method,)))
    if method.gradient_taps:
        raise UserError(f"'standardise' 'phi_s' changes features, and {name} reads gradients. Leave it out.")
    wrapped = [Standardised(**{f.name: getattr(p, f.name) for f in dataclasses.fields(p)}) for p in players]
    image = abstract(strategy)[1].image
    facts = [_blank(*pair, image) for pair in zip(players, variables, strict=True)]
    every = _cast(strategy, wrapped, variables, facts)
    state, batch, _ = abstract(every)

    def terms(frozen, state, batch):
        return every.losses(state.params, state.replace(frozen=frozen), batch, jax.random.key(0))[0]

    reads = [frozen[COLLECTION] for frozen in read_leaves(terms, state.frozen, state, batch).values()]
    facts = [
        {tap: own[tap] for tap, read in found.items() if any(read.values())}
        for own, found in zip(facts, reads, strict=True)
    ]
    if not any(facts):
        raise UserError(f"'standardise' 'phi_s' has no effect: {name} reads no feature of a teacher. Leave it out.")
    return _cast(strategy, wrapped, variables, facts)


def measured(strategy: Any, split: data.Split) -> Any:
    """The strategy of `standardised` with the statistics of the first images of `split`, the training images."""
    players, variables = _teachers(strategy)
    facts = [_measured(player, own, split) for player, own in zip(players, variables, strict=True)]
    return _cast(strategy, players, variables, facts)


def _teachers(strategy: Any) -> tuple[tuple[Player, ...], tuple[dict, ...]]:
    """(players, variables), of one teacher too."""
    found = strategy.teacher, strategy.teacher_variables
    return found if isinstance(strategy.teacher, tuple) else tuple((x,) for x in found)


def _cast(strategy: Any, players: Sequence[Player], variables: Sequence[dict], facts: Sequence[dict]) -> Any:
    """The strategy with these teachers; `facts` are their statistics."""
    own = tuple({**v, COLLECTION: found} for v, found in zip(variables, facts, strict=True))
    if isinstance(strategy.teacher, tuple):
        return dataclasses.replace(strategy, teacher=tuple(players), teacher_variables=own)
    return dataclasses.replace(strategy, teacher=players[0], teacher_variables=own[0])


def _features(player: Player, variables: dict, image: jax.Array) -> dict[str, jax.Array]:
    """The network's own maps, tokens and embedding of images [B, H, W, C] in [0, 1]: channels on the last axis."""
    found = Player.forward(player, _without_facts(variables), image)[0].features
    return {tap: x for tap, x in found.items() if tap in ("stem", "final", "embedding") or tap.startswith("stage")}


def _without_facts(variables: dict) -> dict:
    return {name: value for name, value in variables.items() if name != COLLECTION}


def _blank(player: Player, variables: dict, image: jax.ShapeDtypeStruct) -> dict:
    """Statistics of every tap in the right shapes, without memory of their own."""
    shapes = jax.eval_shape(lambda variables, image: _features(player, variables, image), variables, image)

    def zeros(*sizes):
        return np.broadcast_to(np.float32(0), sizes)

    return {tap: {"mean": zeros(x.shape[-1]), "matrix": zeros(x.shape[-1], x.shape[-1])} for tap, x in shapes.items()}


def _measured(player: Player, variables: dict, split: data.Split) -> dict:
    """The statistics of a teacher's taps on the first images, in whole batches."""
    taps, size = list(variables[COLLECTION]), min(BATCH, len(split))
    images = split.rows(np.arange(min(IMAGES, len(split)) // size * size))

    @jax.jit
    def ask(variables, images):
        found = _features(player, variables, images.astype(jnp.float32) / 255.0)
        return {tap: found[tap] for tap in taps}

    own = _without_facts(variables)
    blocks = [ask(own, images[first : first + size]) for first in range(0, len(images), size)]
    return {tap: statistics(np.asarray(b[tap]).reshape(-1, b[tap].shape[-1]) for b in blocks) for tap in taps}
