"""Parts that strategies with several learners share: the group of peers, its targets, and the ramp of a weight."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from registry import UserError
from transfer.base import Player, Strategy


@dataclasses.dataclass(frozen=True)
class Group(Strategy):
    """Base of the strategies whose learners are the student and its peers, which are whole networks.

    Attributes:
        peers: the student's peers, one or more.
    """

    peers: tuple[Player, ...]

    @classmethod
    def players(cls, build):
        return {"peers": build.untrained("peer{}")}

    def __post_init__(self):
        self._players  # noqa: B018  # checks the names

    @property
    def _players(self):
        return players_of(self.student, self.peers)

    def ensembles(self, logits):
        return {"ensemble": mean_prediction([logits[name] for name in self._players])}


def players_of(student: Player, peers: tuple[Player, ...]) -> dict[str, Player]:
    """Returns name -> player; the student is the first.

    Raises:
        UserError: no peer, or two players with the same name.
    """
    players = {player.name: player for player in (student, *peers)}
    if not peers or len(players) != len(peers) + 1:
        raise UserError(f"The student needs a peer, and peers need names of their own; got {[p.name for p in peers]}.")
    return players


def ramp_up(epoch: jax.Array, length: float) -> jax.Array:
    """exp(-5 (1 - epoch / length)^2), and 1 from `length` (in epochs) on; always 1 if `length` is 0.

    Source: Laine, Aila, ICLR 2017, arXiv:1610.02242
    """
    if not length:
        return jnp.ones_like(epoch)
    return jnp.exp(-5.0 * jnp.square(1.0 - jnp.minimum(epoch / length, 1.0)))


def divergence(logits: jax.Array, target: jax.Array, temperature: float) -> jax.Array:
    """KL(target || softmax(logits / T)) * T^2, which can also be differentiated with respect to the target.

    Args:
        logits: [B, K] float32.
        target: [B, K], logarithms of probabilities; probabilities that underflow have a finite gradient, too.
        temperature: T, dimensionless. T^2 is in.

    Returns:
        Scalar: sum over classes, mean over the batch. Natural log.
    """
    own = jax.nn.log_softmax(logits / temperature)
    return temperature**2 * jnp.mean(jnp.sum(jnp.exp(target) * (target - own), axis=-1))


def mean_prediction(logits: list[np.ndarray]) -> np.ndarray:
    """The mean of several networks' predictions.

    Args:
        logits: [N, K] of each network.

    Returns:
        [N, K] float32, logarithms of the mean probabilities.
    """
    predictions = jax.nn.log_softmax(np.stack(logits), axis=-1)
    return np.asarray(jax.nn.logsumexp(predictions, axis=0) - np.log(len(logits)).astype(np.float32))


def refuse_two_phases(strategy: str, method, advice: str = "") -> None:
    """Raises `UserError` if the method has a first phase, which needs a teacher that is trained already."""
    if method is not None and method.first_phase_epochs:
        raise UserError(
            f"{type(method).__name__} learns from its teacher for {method.first_phase_epochs:g} epochs before the "
            f"training proper;\nunder {strategy} the teacher is untrained then. Use --transfer Offline{advice}."
        )
