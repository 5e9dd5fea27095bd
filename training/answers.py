"""The answers of a network on a whole split: logits, or what another task keeps of the outputs."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from data.streamed import batches
from tasks.classification import Classification
from training.devices import Devices
from transfer import Player

BATCH = 250  # images per device and call


def spaced(count: int, most: int) -> np.ndarray:
    """Indices of at most `most` of `count` images, evenly spaced, because some splits are sorted by class."""
    return np.unique(np.linspace(0, count - 1, min(most, count)).astype(int))


class Answers:
    """Answers of a network on the images of a split; compiled once for each size of a split.

    Args:
        player: the network.
        devices: where the program runs.
        task: says what a test keeps of the outputs; classification: the logits.
    """

    def __init__(self, player: Player, devices: Devices, task=Classification()):  # noqa: B008  # immutable
        self.devices = devices

        def answer(variables, images, rows):
            images = images if rows is None else images[rows]
            image = devices.split_rows(images.astype(jnp.float32) / 255.0)
            return devices.constrain(task.answer(player.forward(variables, image)[0]))  # each process reads all

        self._answer = jax.jit(answer)

    def __call__(
        self, variables: dict, images, rows: np.ndarray | None = None, stop: Callable = lambda: False
    ) -> np.ndarray | None:
        """Runs the network.

        Args:
            variables: `{"params", "batch_stats"}`.
            images: N images uint8 (`data.FlatImages`), on the devices, where several networks share one copy; or a
                streamed split's.
            rows: [M] int, indices of the images; None: all.
            stop: called between batches; True ends this call.

        Returns:
            [M, ...] float32 in host memory, logits [M, K] in classification; None if `stop` returned True.
        """
        rows = np.arange(len(images)) if rows is None else np.asarray(rows)
        size = min(BATCH, -(-len(images) // self.devices.count)) * self.devices.count
        padded = np.pad(rows.astype(np.int32), (0, -len(rows) % size), mode="edge")
        variables, parts = self.devices.place(variables), []
        for shown, numbers in batches(images, padded.reshape(-1, size)):
            if stop():
                return None
            parts.append(self._answer(variables, shown, numbers))
            parts[:-2] = jax.device_get(parts[:-2])  # so that a slow device holds the images of few batches
        return np.concatenate(jax.device_get(parts))[: len(rows)]
