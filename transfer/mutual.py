"""Mutual: peers learn from the labels and from each other.

    loss_k = ce_weight * L(k) + weight / (n - 1) * sum_{l != k} method_kl(k, l),   k = 1 ... n

L is the task's loss on labels, n the number of learners.

Paper: Zhang, Xiang, Hospedales, Lu. Deep Mutual Learning. CVPR 2018. arXiv:1706.00384.

The paper's method is KL(p_l || p_k) at T = 1, which is the default here. With another method each ordered pair has
learnable parts and memory of its own. All peers see the same images. In a step each peer makes one forward pass, the
others' outputs are constants, and all peers are updated together. The paper updates one peer after the other, each with
new outputs of the others. One optimizer moves all peers. Weight 0 trains each peer as if alone, unless `clip_norm`
clips the norm over all peers.
"""

import dataclasses

import jax

from options import not_negative
from transfer.base import player_key, term_of
from transfer.peers import Group, refuse_two_phases


@dataclasses.dataclass(frozen=True)
class Mutual(Group):
    """Peers, of one or of several architectures, learn from labels and from each other, with any method.

    Paper: Zhang, Xiang, Hospedales, Lu, CVPR 2018, arXiv:1706.00384

    Attributes:
        weight: weight of the peers' distillation losses.
    """

    weight: float = not_negative(1.0)
    reads = ("distiller", "teacher_arch")
    default_method = ("SoftLogits", {"weight": 1.0, "ce_weight": 1.0, "temperature": 1.0})

    def __post_init__(self):
        super().__post_init__()
        refuse_two_phases("Mutual", self.method)

    @property
    def _pairs(self) -> dict[str, tuple[str, str]]:
        """Name of the method's variables -> (learner, teacher)."""
        names = list(self._players)
        return {f"{own}_from_{other}": (own, other) for own in names for other in names if own != other}

    def init(self, key, batch):
        params, extra = self._first_variables(key, batch.image)
        outputs = {name: self._look(name, params, extra, batch)[0] for name in self._players}
        constants, params["method"], extra["method"] = jax.lax.stop_gradient(outputs), {}, {}
        for number, (pair, (own, other)) in enumerate(self._pairs.items()):
            its_key = player_key(key, number) if number else key
            its_params, memory = self._method_init(its_key, outputs[own], constants[other], batch)
            params["method"][pair], extra["method"][pair] = its_params, memory
        return self._state(params, extra)

    def losses(self, params, state, batch, key):
        outputs, extra = {}, {"method": {}}
        for name in self._players:
            outputs[name], extra[name] = self._look(name, params, state.extra, batch)
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
