"""The devices of a run: how arrays lie on them, and what their backend wants."""

import dataclasses
import functools
import os

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from registry import UserError

REPEATABLE = "xla_gpu_deterministic_ops"


@dataclasses.dataclass(frozen=True)
class Devices:
    """All devices of a run along one axis, "data".

    Batches are split along the axis. What a method remembers of every example (a leaf in a collection "memory" with a
    row for each example, as CRD's banks) is split by rows, where the rows divide evenly. Everything else lies on each
    device. The devices need not be the default ones.

    Attributes:
        devices: at least one.
    """

    devices: tuple[jax.Device, ...]

    @property
    def count(self) -> int:
        """How many devices there are."""
        return len(self.devices)

    @property
    def platform(self) -> str:
        """ "cpu", "gpu" or "tpu"."""
        return self.devices[0].platform

    @property
    def loops(self) -> bool:
        """Whether many updates in one program, and seeds stacked in one program, are fast.

        XLA:CPU is slow at loops and at convolutions under `vmap`: a CPU makes one update of one seed at a time.
        """
        return self.platform != "cpu"

    @functools.cached_property
    def mesh(self) -> Mesh:
        """The devices as JAX wants them."""
        return Mesh(np.asarray(self.devices), ("data",))

    def spec(self, path: tuple, shape: tuple[int, ...], examples: int, axis: int = 0) -> PartitionSpec:
        """How a leaf lies on the devices.

        Args:
            path: of the leaf, as JAX gives it.
            shape: of the leaf.
            examples: N of the split; 0: everything lies on every device.
            axis: of the examples.
        """
        remembered = any(getattr(key, "key", None) == "memory" for key in path)
        rows = shape[axis] if remembered and len(shape) > axis else 0
        if self.count > 1 and rows and rows == examples and rows % self.count == 0:
            return PartitionSpec(*[None] * axis, "data")
        return PartitionSpec()

    def sharding(self, *axes) -> NamedSharding:
        """The sharding with `axes` as its `PartitionSpec`; without axes, a copy on every device."""
        return NamedSharding(self.mesh, PartitionSpec(*axes))

    def place(self, tree, examples: int = 0):
        """The tree on the devices, as `spec` says; with several processes all bring the same arrays."""

        def put(path, leaf):
            sharding = NamedSharding(self.mesh, self.spec(path, np.shape(leaf), examples))
            if jax.process_count() == 1:
                return jax.device_put(leaf, sharding)
            if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
                return leaf if leaf.sharding == sharding else jax.jit(lambda x: x, out_shardings=sharding)(leaf)
            leaf = np.asarray(leaf)
            return jax.make_array_from_callback(leaf.shape, sharding, lambda rows: leaf[rows])

        return jax.tree_util.tree_map_with_path(put, tree)

    def shapes(self, tree, examples: int = 0):
        """The shapes of a tree as `place` would lay it out: a program traced with them is not traced again."""

        def shape(path, leaf):
            sharding = NamedSharding(self.mesh, self.spec(path, leaf.shape, examples))
            weak = getattr(leaf, "weak_type", False)
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding, weak_type=weak)

        return jax.tree_util.tree_map_with_path(shape, tree)

    def constrain(self, tree, examples: int = 0, axis: int = 0):
        """In a compiled function: the tree laid out as `spec` says, so that a call returns what the next one takes."""
        if self.count == 1:
            return tree

        def one(path, leaf):
            sharding = NamedSharding(self.mesh, self.spec(path, leaf.shape, examples, axis))
            return jax.lax.with_sharding_constraint(leaf, sharding)

        return jax.tree_util.tree_map_with_path(one, tree)

    def split_rows(self, tree):
        """In a compiled function: the first axis of every array split over the devices; scalars stay."""
        if self.count == 1:
            return tree
        rows = self.sharding("data")
        return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, rows) if x.ndim else x, tree)

    def check_divides(self, batch_size: int, parts: int = 1) -> None:
        """Raises `UserError` unless every device gets as many rows of each of the `parts` of a batch."""
        if batch_size // parts % self.count:
            size = f"{batch_size} in {parts} parts" if parts > 1 else batch_size
            raise UserError(
                f"--batch_size {size} does not divide by the {self.count} devices.\n"
                "Choose a multiple, or fewer devices with --gpu_id."
            )

    def check_repeatable(self) -> None:
        """Raises `UserError` on a GPU whose kernels are not repeatable; the flag for that is read when JAX starts."""
        if self.platform == "gpu" and REPEATABLE not in os.environ.get("XLA_FLAGS", ""):
            raise UserError(
                f"'deterministic' must be set before JAX starts, as the command lines do: "
                f"XLA_FLAGS=--{REPEATABLE}=true."
            )

    def check_memory(self, size: int, what: str, advice: str) -> None:
        """Raises `UserError` where a device says that less than `size` bytes of its memory are free."""
        from files import size_text

        for device in jax.local_devices():
            memory = device.memory_stats() or {}
            free = memory.get("bytes_limit", 0) - memory.get("bytes_in_use", 0)
            if "bytes_limit" in memory and free < size:
                raise UserError(
                    f"{what} takes {size_text(size)} on every device; {device} has {size_text(free)} free.\n{advice}"
                )


@functools.cache
def here() -> Devices:
    """All devices that JAX sees, of all processes."""
    return Devices(tuple(jax.devices()))
