"""The logits of a network on a whole split."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from training.devices import Devices
from transfer import Player

BATCH = 250  # images per device and call


class Answers:
    """Logits of a network on the images of a split; compiled once.

    Args:
        player: the network.
        images: [N, H, W, C] uint8, on the devices; several networks share one copy. The attribute `images` may be
            replaced by other images.
        devices: where the program runs.
    """

    def __init__(self, player: Player, images: jax.Array, devices: Devices):
        self.images, self.devices = images, devices
        self._batch = min(BATCH, -(-len(images) // devices.count)) * devices.count

        def answer(variables, images, rows):
            image = devices.split_rows(images[rows].astype(jnp.float32) / 255.0)
            return devices.constrain(player.forward(variables, image)[0].logits)  # each process reads all

        self._answer = jax.jit(answer)

    def __call__(
        self, variables: dict, rows: np.ndarray | None = None, stop: Callable[[], bool] = lambda: False
    ) -> np.ndarray | None:
        """Runs the network.

        Args:
            variables: `{"params", "batch_stats"}`.
            rows: [M] int, indices of the images; None: all.
            stop: called between batches; True ends this call.

        Returns:
            Logits [M, K] float32 in host memory; None if `stop` returned True.
        """
        rows = np.arange(len(self.images)) if rows is None else np.asarray(rows)
        padded = np.pad(rows.astype(np.int32), (0, -len(rows) % self._batch), mode="edge")
        variables, parts = self.devices.place(variables), []
        for batch in padded.reshape(-1, self._batch):
            if stop():
                return None
            parts.append(self._answer(variables, self.images, batch))
        return np.concatenate(jax.device_get(parts))[: len(rows)]
