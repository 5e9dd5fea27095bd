"""A network's answers to a whole split: the one place that asks for them."""

from collections.abc import Callable
from operator import attrgetter

import jax
import jax.numpy as jnp
import numpy as np

from training.devices import Devices
from transfer import Player

BATCH = 250  # images a device and call


class Answers:
    """Logits of a network, or another output, on the images of a split; compiled once.

    Args:
        player: the network.
        images: [N, H, W, C] uint8, on the devices; several networks share the one copy. The attribute `images` may be
            replaced by other images.
        devices: where the program runs.
        read: `Outputs` -> [B, K], the output that is asked for.
    """

    def __init__(self, player: Player, images: jax.Array, devices: Devices, read: Callable = attrgetter("logits")):
        self.images, self.devices = images, devices
        self._batch = min(BATCH, -(-len(images) // devices.count)) * devices.count

        def answer(variables, images, rows):
            image = devices.split_rows(images[rows].astype(jnp.float32) / 255.0)
            return devices.constrain(read(player.forward(variables, image)[0]))  # every process reads all of them

        self._answer = jax.jit(answer)

    def __call__(
        self, variables: dict, rows: np.ndarray | None = None, stop: Callable[[], bool] = lambda: False
    ) -> np.ndarray | None:
        """Asks the network.

        Args:
            variables: `{"params", "batch_stats"}`.
            rows: [M] int, which images; None: all.
            stop: looked at between batches.

        Returns:
            Logits [M, K] float32 in host memory; None where `stop` became true.
        """
        rows = np.arange(len(self.images)) if rows is None else np.asarray(rows)
        padded = np.pad(rows.astype(np.int32), (0, -len(rows) % self._batch), mode="edge")
        variables, parts = self.devices.place(variables), []
        for batch in padded.reshape(-1, self._batch):
            if stop():
                return None
            parts.append(self._answer(variables, self.images, batch))
        return np.concatenate(jax.device_get(parts))[: len(rows)]
