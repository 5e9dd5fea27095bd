"""Mutual: peers learn from the labels and from each other.

    loss_k = ce_weight * L(k) + weight / (n - 1) * sum_{l != k} method_kl(k, l),   k = 1 ... n

L is the task's loss on labels.

Paper: Zhang, Xiang, Hospedales, Lu. Deep Mutual Learning. CVPR 2018. arXiv:1706.00384.

The paper's method is KL(p_l || p_k) at T = 1, which is the default here. With another one each ordered pair has
learnable parts and memory of its own. All peers see the same images and are updated together, from one forward pass
each, in which the others are constants; the paper updates one after the other, each with fresh answers of the rest. One
optimizer moves all; without `clip_norm`, which is of all together, weight 0 trains each as if it were alone.
"""

import dataclasses

import jax

from transfer.base import Player, Strategy, term_of
from transfer.peers import first_variables, mean_prediction, peer_key, players_of, refuse_two_phases


@dataclasses.dataclass(frozen=True)
class Mutual(Strategy):
    """Peers, of one or of several architectures, learn from labels and from each other, with any method.

    Paper: Zhang, Xiang, Hospedales, Lu, CVPR 2018, arXiv:1706.00384

    Attributes:
        peers: the student's peers, one or more.
        method: a distiller.
        weight: of what is learned from the peers.
    """

    peers: tuple[Player, ...]
    weight: float = 1.0
    reads = ("distiller", "teacher_arch")
    default_method = ("SoftLogits", {"weight": 1.0, "ce_weight": 1.0, "temperature": 1.0})

    @classmethod
    def players(cls, build):
        return {"peers": build.untrained("peer{}")}

    def __post_init__(self):
        refuse_two_phases("Mutual", self.method)
        self._players  # noqa: B018  # the names are checked

    @property
    def _players(self) -> dict[str, Player]:
        return players_of(self.student, self.peers)

    @property
    def _pairs(self) -> dict[str, tuple[str, str]]:
        """Name of the method's variables -> (who learns, from whom)."""
        names = list(self._players)
        return {f"{own}_from_{other}": (own, other) for own in names for other in names if own != other}

    def init(self, key, batch):
        params, extra = first_variables(self._players, key, batch.image)
        outputs = {name: self._own(name, params, extra, batch)[0] for name in self._players}
        constants, params["method"], extra["method"] = jax.lax.stop_gradient(outputs), {}, {}
        for number, (pair, (own, other)) in enumerate(self._pairs.items()):
            its_key = peer_key(key, number) if number else key
            its_params, memory = self._method_init(its_key, outputs[own], constants[other], batch)
            params["method"][pair], extra["method"][pair] = its_params, memory
        return self._state(params, extra)

    def losses(self, params, state, batch, key):
        outputs, extra = {}, {"method": {}}
        for name in self._players:
            outputs[name], stats = self._own(name, params, state.extra, batch)
            extra[name] = {"batch_stats": stats}
        constants = jax.lax.stop_gradient(outputs)
        terms, counts = self._label_terms(outputs, batch, self._label_weight(batch))
        factor = self.weight / len(self.peers)
        for number, (pair, (own, other)) in enumerate(self._pairs.items()):
            variables, its_key = (params["method"][pair], state.extra["method"][pair]), jax.random.fold_in(key, number)
            found, extra["method"][pair] = self._method(*variables, outputs[own], constants[other], batch, its_key)
            for name, value in found.items():
                name = term_of(own, name)
                terms[name] = terms.get(name, 0.0) + factor * value
        return terms, (extra, counts)

    def learners(self, state):
        return {name: (player, state.variables(name)) for name, player in self._players.items()}

    def ensembles(self, logits):
        return {"ensemble": mean_prediction([logits[name] for name in self._players])}

    def _own(self, name, params, extra, batch):
        return self._look(self._players[name], {"params": params[name], **extra[name]}, batch)
