"""What strategies with several learners share: their first variables, their targets, and the ramp of their weights."""

import jax
import jax.numpy as jnp
import numpy as np

from registry import UserError
from transfer.base import STUDENT, Player

PEERS = 16  # what the key of `init` is folded with before the number of a learner beside the student


def players_of(student: Player, peers: tuple[Player, ...]) -> dict[str, Player]:
    """Name -> player, the student first.

    Raises:
        UserError: no peer, or two of one name.
    """
    players = {player.name: player for player in (student, *peers)}
    if not peers or len(players) != len(peers) + 1:
        raise UserError(f"Learners need names of their own, and one beside the student; got {[p.name for p in peers]}.")
    return players


def peer_key(key: jax.Array, number: int) -> jax.Array:
    """The key that learner `number` is drawn from; 0 is the student, whom every strategy starts alike."""
    return jax.random.fold_in(jax.random.fold_in(key, PEERS), number) if number else jax.random.fold_in(key, STUDENT)


def first_variables(players: dict[str, Player], key: jax.Array, image: jax.Array) -> tuple[dict, dict]:
    """(name -> parameters, name -> {"batch_stats"}), each drawn from its own key."""
    params, extra = {}, {}
    for number, (name, player) in enumerate(players.items()):
        variables = player.init(peer_key(key, number), image)
        params[name], extra[name] = variables["params"], {"batch_stats": variables["batch_stats"]}
    return params, extra


def ramp_up(epoch: jax.Array, length: float) -> jax.Array:
    """exp(-5 (1 - epoch / length)^2), 1 from `length` (in epochs) on; always 1 where that is 0.

    Source: Laine, Aila, ICLR 2017, arXiv:1610.02242
    """
    if not length:
        return jnp.ones_like(epoch)
    return jnp.exp(-5.0 * jnp.square(1.0 - jnp.minimum(epoch / length, 1.0)))


def divergence(logits: jax.Array, target: jax.Array, temperature: float) -> jax.Array:
    """KL(target || softmax(logits / T)) * T^2; also differentiable by the target.

    Args:
        logits: [B, K] float32.
        target: [B, K], logarithms of probabilities: those that underflow have a gradient, too.
        temperature: T, dimensionless. T^2 is in.

    Returns:
        Scalar: sum over classes, mean over the batch. Natural log.
    """
    own = jax.nn.log_softmax(logits / temperature)
    return temperature**2 * jnp.mean(jnp.sum(jnp.exp(target) * (target - own), axis=-1))


def mean_prediction(logits: list[np.ndarray]) -> np.ndarray:
    """Log of the mean of the predicted probabilities, [N, K], from logits [N, K] each."""
    predictions = jax.nn.log_softmax(np.stack(logits), axis=-1)
    return np.asarray(jax.nn.logsumexp(predictions, axis=0) - np.log(len(logits)).astype(np.float32))


def refuse_two_phases(strategy: str, method, advice: str = "") -> None:
    """Raises `UserError` where a method first learns from a teacher for some epochs: here there is none yet."""
    if method is not None and method.first_phase_epochs:
        raise UserError(
            f"{type(method).__name__} learns from its teacher for {method.first_phase_epochs:g} epochs before the "
            f"training proper;\nunder {strategy} the teacher is untrained then. Use --transfer Offline{advice}."
        )


def refuse_one_in(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises `UserError` unless an option's value is one of its choices."""
    if value not in choices:
        raise UserError(f"'{name}' is {' or '.join(choices)}; got {value!r}.")
