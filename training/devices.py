"""The devices of a run: the layout of arrays on them, and properties of their backend."""

import dataclasses
import functools
import os

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from registry import UserError

REPEATABLE = "xla_gpu_deterministic_ops"


@dataclasses.dataclass(frozen=True)
class Devices:
    """All devices of a run along one axis, "data".

    Batches are split along the axis. A method's memory with a row for each example (a leaf in a collection "memory",
    such as CRD's banks) is split by rows if the rows divide evenly. Every device has a copy of everything else. The
    devices need not be the default ones.

    Attributes:
        devices: at least one.
    """

    devices: tuple[jax.Device, ...]

    @property
    def count(self) -> int:
        """The number of devices."""
        return len(self.devices)

    @property
    def platform(self) -> str:
        """ "cpu", "gpu" or "tpu"."""
        return self.devices[0].platform

    @property
    def loops(self) -> bool:
        """Whether the backend is fast at programs with many updates or with several seeds.

        XLA:CPU is slow at loops and at convolutions under `vmap`, so on a CPU a program makes one update of one seed.
        """
        return self.platform != "cpu"

    @functools.cached_property
    def mesh(self) -> Mesh:
        """The devices as a JAX mesh."""
        return Mesh(np.asarray(self.devices), ("data",))

    @property
    def rows(self) -> NamedSharding:
        """The sharding of a batch, split by rows."""
        return self.sharding("data") if self.count > 1 else self.sharding()

    def spec(self, path: tuple, shape: tuple[int, ...], examples: int, axis: int = 0) -> PartitionSpec:
        """Returns the layout of a leaf on the devices.

        Args:
            path: the leaf's path in its tree, as JAX gives it.
            shape: the leaf's shape.
            examples: number of training examples; 0: no leaf is split.
            axis: the axis of the examples.
        """
        if self.count > 1 and any(getattr(key, "name", None) == "pictures" for key in path):  # of a streamed split
            return PartitionSpec(*[None] * axis, "data")
        remembered = any(getattr(key, "key", None) == "memory" for key in path)
        rows = shape[axis] if remembered and len(shape) > axis else 0
        if self.count > 1 and rows and rows == examples and rows % self.count == 0:
            return PartitionSpec(*[None] * axis, "data")
        return PartitionSpec()

    def sharding(self, *axes) -> NamedSharding:
        """The sharding with `axes` as its `PartitionSpec`; without axes, a copy on every device."""
        return NamedSharding(self.mesh, PartitionSpec(*axes))

    def place(self, tree, examples: int = 0):
        """Puts a tree on the devices as `spec` says. All processes must give the same arrays."""

        def put(path, leaf):
            sharding = NamedSharding(self.mesh, self.spec(path, np.shape(leaf), examples))
            if jax.process_count() == 1:
                return jax.device_put(leaf, sharding)
            if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
                return leaf if leaf.sharding == sharding else jax.jit(lambda x: x, out_shardings=sharding)(leaf)
            leaf = np.asarray(leaf)
            return jax.make_array_from_callback(leaf.shape, sharding, lambda rows: leaf[rows])

        return jax.tree_util.tree_map_with_path(put, tree)

    def shapes(self, tree, examples: int = 0, axis: int = 0):
        """Returns a tree's shapes with the layout of `place`. A program traced with them is not traced again."""

        def shape(path, leaf):
            sharding = NamedSharding(self.mesh, self.spec(path, leaf.shape, examples, axis))
            weak = getattr(leaf, "weak_type", False)
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding, weak_type=weak)

        return jax.tree_util.tree_map_with_path(shape, tree)

    def constrain(self, tree, examples: int = 0, axis: int = 0):
        """In a compiled function, lays a tree out as `spec` says, so that the next call can take the result."""
        if self.count == 1:
            return tree

        def one(path, leaf):
            sharding = NamedSharding(self.mesh, self.spec(path, leaf.shape, examples, axis))
            return jax.lax.with_sharding_constraint(leaf, sharding)

        return jax.tree_util.tree_map_with_path(one, tree)

    def split_rows(self, tree):
        """In a compiled function, splits the first axis of every array over the devices; scalars are not split."""
        if self.count == 1:
            return tree
        rows = self.sharding("data")
        return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, rows) if x.ndim else x, tree)

    def check_divides(self, batch_size: int, parts: int = 1) -> None:
        """Raises `UserError` unless every device gets the same number of rows of each of the `parts` of a batch."""
        if batch_size // parts % self.count:
            size = f"{batch_size} in {parts} parts" if parts > 1 else batch_size
            raise UserError(
                f"--batch_size {size} does not divide by the {self.count} devices.\n"
                "Choose a multiple, or fewer devices with --gpu_id."
            )

    def groups(self, chips: int) -> int:
        """Returns how many groups of `chips` devices there are; 1 for 0, which stands for all devices.

        Raises:
            UserError: the groups would be unequal.
        """
        if chips and self.count % chips:
            raise UserError(
                f"--batch_norm_chips {chips} does not divide the {self.count} devices.\n"
                "Choose a divisor, or 0, one group of all devices."
            )
        return self.count // chips if chips else 1

    def check_repeatable(self) -> None:
        """Raises `UserError` on a GPU without the flag for repeatable kernels, which JAX reads when it starts."""
        if self.platform == "gpu" and REPEATABLE not in os.environ.get("XLA_FLAGS", ""):
            raise UserError(
                f"'deterministic' needs this flag before JAX starts; the command lines set it: "
                f"XLA_FLAGS=--{REPEATABLE}=true."
            )


@functools.cache
def here() -> Devices:
    """Returns all devices that JAX sees, of all processes."""
    return Devices(tuple(jax.devices()))


@jax.jit
def copied(tree):
    """The tree in buffers of its own: the state's buffers are donated to the next update."""
    return jax.tree.map(jnp.copy, tree)
