"""Weights measured by their embeddings on labelled data: `evaluate.py --probe`."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

import data
import pretrained
from data.dataset import IMAGES
from explain import probes
from models import Outputs, Player
from pretrained.players import player_of
from registry import UserError, unknown
from studies.evaluation import answers_to

PROBES = ("knn", "linear")


@dataclasses.dataclass(frozen=True)
class Embedding(Player):
    """A network that answers with its embedding [B, D] float32 in the place of logits."""

    def forward(self, variables, image, **options) -> tuple[Outputs, dict]:
        outputs, stats = super().forward(variables, image, **options)
        return Outputs(logits=outputs.features["embedding"].astype(jnp.float32), features={}), stats


def check(names: Sequence[str]) -> None:
    """Raises `UserError` for a name that is no probe."""
    for name in names:
        if name not in PROBES:
            raise unknown("probe", name, PROBES)


def measure(params: Sequence[str], dataset: data.Dataset, names: Sequence[str], arch: str = "") -> list[dict]:
    """Measures the embeddings of networks by probes: the training split is the memory, the test split is measured.

    No classifier of a network is asked, so the classes of network and data may differ.

    Args:
        params: run folders, or folders of weights.
        dataset: labelled data.
        names: of `PROBES`.
        arch: as in `pretrained.players.player_of`.

    Returns:
        One dictionary for each of `params`: "width" of the embedding, "memory" and "images" (numbers of images), and by
        the name of the probe {"top1": percent, ...} with the probe's settings.

    Raises:
        UserError: data without labels or training images, weights that do not fit the images, or a network without the
            tap `embedding`; before any network runs.
    """
    check(names)
    dataset.check_classified("--probe")
    if not len(dataset.train):
        raise UserError(f"--probe needs training images as its memory, and {dataset.name} has none here.")
    loaded = [pretrained.load(param) for param in params]
    for weights in loaded:
        theirs, ours = weights.info["image_shape"][-1], dataset.image_shape[-1]
        if theirs != ours:
            raise UserError(f"The network in {weights.folder} has {theirs} channels, {dataset.name} has {ours}.")
    players = [player_of(weights, "network", arch=arch, dataset=dataset) for weights in loaded]
    for weights, (player, variables) in zip(loaded, players, strict=True):
        _check_embedding(weights, player, variables, dataset.image_shape)
    memories, queries = (embeddings(players, split) for split in (dataset.train, dataset.test))
    return [_probed(*pair, dataset, names) for pair in zip(memories, queries, strict=True)]


def embeddings(players: Sequence[tuple[Player, dict]], split: data.Split) -> list[np.ndarray]:
    """Returns embeddings [N, D] float32 of each (network, variables) on a split, in blocks of `IMAGES` images."""
    fields = [field.name for field in dataclasses.fields(Player)]
    asked = [(Embedding(**{name: getattr(player, name) for name in fields}), own) for player, own in players]
    parts = (block[i : i + IMAGES] for block in split.blocks() for i in range(0, len(block), IMAGES))
    return answers_to(asked, parts)


def _check_embedding(weights: pretrained.Pretrained, player: Player, variables: dict, shape: tuple) -> None:
    """Raises `UserError` for a network without an embedding; from shapes alone."""
    image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    features = jax.eval_shape(lambda v, x: player.forward(v, x)[0].features, variables, image)
    if "embedding" not in features:
        raise UserError(
            f"--probe reads the tap 'embedding', and {weights.info['arch']} in {weights.folder} has none.\n"
            f'Its taps: {", ".join(sorted(features)) or "logits only"}. Record `tap("embedding", x)` (docs/models.md).'
        )


def _probed(memory: np.ndarray, queries: np.ndarray, dataset: data.Dataset, names: Sequence[str]) -> dict:
    labels, true = dataset.train.labels, dataset.test.labels
    found = {"width": memory.shape[1], "memory": len(memory), "images": len(queries)}
    if "knn" in names:
        classes = probes.knn(memory, labels, queries)
        settings = {"neighbours": min(probes.NEIGHBOURS, len(memory)), "temperature": probes.TEMPERATURE}
        found["knn"] = {"top1": _percent(classes == true), **settings}
    if "linear" in names:
        classes, converged = probes.linear(memory, labels, queries)
        found["linear"] = {"top1": _percent(classes == true), "converged": converged}
    return found


def _percent(right: np.ndarray) -> float:
    return 100 * float(np.mean(right))
