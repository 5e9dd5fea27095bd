"""A run's update as the compiler of a target sees it: a TPU or GPU that this machine does not have.

The update is the one that a run on the target would call, made from the same recipe by the same builder. Its arguments
are shapes with a layout on the target's devices, so nothing is computed and nothing is put on a device. Numbers from
here are the compiler's estimates.
"""

import contextlib
import dataclasses
import importlib.util
import math
import os
import re
import time
from collections.abc import Callable, Mapping

import jax
from jax.experimental.compilation_cache import compilation_cache

import data
from configs import command
from configs.resolve import resolve
from data.stored import DeviceBank
from files import size_text
from registry import UserError, unknown
from studies.hlo import Program
from training.builder import Builder
from training.devices import Devices
from training.update import Totals, Update
from transfer import State

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of accelerator.

    Attributes:
        platform: "tpu" or "gpu".
        topology: the smallest topology as its compiler names it, for messages.
        memory: bytes a chip that a program may use.
        hertz: cycles a second behind the compiler's estimate; 0: the estimate is not turned into seconds.
    """

    platform: str
    topology: str
    memory: int
    hertz: float = 0.0


# Memory and peak are those of the makers' pages (docs/accelerators.md). The cycles a second of a TPU follow from its
# peak in bfloat16, 2 * 128 * 128 FLOPs a cycle in each of its 4 (v5e) or 8 (v4, v5p) matrix units.
KINDS = {
    "v5e": Kind("tpu", "2x2", 16 * GIB, 197e12 / (4 * 2 * 128**2)),
    "v5p": Kind("tpu", "2x2x1", 95 * GIB, 459e12 / (8 * 2 * 128**2)),
    "v4": Kind("tpu", "2x2x1", 16 * GIB, 275e12 / (8 * 2 * 128**2)),  # v4 and v3: of a core, of which a chip has two
    "v6e": Kind("tpu", "2x2", 32 * GIB),
    "v3": Kind("tpu", "2x2", 16 * GIB),
    "h200": Kind("gpu", "", 141 * 10**9),
}
# A GpuTargetConfig in protobuf's text form: what XLA asks a GPU about.
H200 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128 block_dim_limit_x: 2147483647 block_dim_limit_y: 65535
  block_dim_limit_z: 65535 memory_bandwidth: 4800000000000 l2_cache_size: 62914560 clock_rate_ghz: 1.98
  device_memory_size: 150000000000 shared_memory_per_block_optin: 232448 registers_per_core_limit: 65536
  registers_per_block_limit: 65536 cuda_compute_capability { major: 9 minor: 0 }
}
platform_name: "CUDA" dnn_version_info { major: 9 minor: 10 patch: 0 } device_description_str: "NVIDIA H200"
"""
INSTALL = {"tpu": "pip install -e '.[aot]'", "gpu": "pip install -e '.[cuda13]', in an environment of its own"}
COMPILERS = {"tpu": ("libtpu",), "gpu": ("jax_cuda13_plugin", "jax_cuda12_plugin")}
SETTINGS = {  # of the compilers, which would otherwise look for the device and its driver
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",
}


@dataclasses.dataclass(frozen=True)
class Target:
    """Chips to compile for.

    Attributes:
        name: as the user gives it: KIND:TOPOLOGY, such as "v5e:2x4", or "h200".
        chips: the number of chips that a run uses; 0: all of the topology.
    """

    name: str
    chips: int = 0

    @property
    def kind(self) -> Kind:
        """The kind of its chips; raises `UserError` for an unknown one."""
        name = self.name.partition(":")[0]
        if name not in KINDS:
            raise unknown("target", name, KINDS)
        return KINDS[name]

    def check_compiler(self) -> None:
        """Raises `UserError` if the compiler is not installed."""
        platform = self.kind.platform
        if not compiler_is_here(platform):
            raise UserError(f"{self.name} has a compiler of its own, which is not installed: {INSTALL[platform]}.")

    def devices(self) -> Devices:
        """The chips as devices of a run, which exist for the compiler alone.

        Raises:
            UserError: the compiler is not installed, or the topology does not exist.
        """
        kind, (name, _, topology) = self.kind, self.name.partition(":")
        self.check_compiler()
        form = f"{name}:{kind.topology}" if kind.topology else name
        if bool(topology) != bool(kind.topology):
            raise UserError(f"'{self.name}' is no target. A target that exists is {form}.")
        from jax.experimental import topologies

        for setting, value in SETTINGS.items():
            os.environ.setdefault(setting, value)
        try:
            if kind.platform == "tpu":
                found = topologies.get_topology_desc(platform="tpu", topology_name=self.name)
            else:
                found = topologies.get_topology_desc(name, "cuda", target_config=H200, topology="1x1x1")
        except Exception as error:  # the compilers raise their own kinds
            raise UserError(f"{self.name}: {_first_line(error)}\nA target that exists is {form}.") from None
        if self.chips > len(found.devices):
            raise UserError(f"{self.name} has {len(found.devices)} chips, not {self.chips}.")
        return Devices(tuple(found.devices[: self.chips or len(found.devices)]))


def compiler_is_here(platform: str) -> bool:
    """Whether the compiler of a platform, "tpu" or "gpu", is installed."""
    return any(map(importlib.util.find_spec, COMPILERS[platform]))


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What a target's compiler says of an update.

    Attributes:
        target: the target.
        chips: number of chips.
        images: images of an update, of all seeds.
        seconds: time of compiling.
        program: the text, read.
        memory: bytes a chip: "arguments", "temporaries", "outputs" (without those in the place of arguments), "code".
        cost: XLA's counts: "flops", "bytes accessed"; empty for a GPU.
        split: values in the training images.
    """

    target: Target
    chips: int
    images: int
    seconds: float
    program: Program
    memory: dict[str, int]
    cost: dict[str, float]
    split: int

    def facts(self) -> dict:
        """The numbers, as JSON. Numbers that the compiler does not give are None."""
        tpu, program = self.target.kind.platform == "tpu", self.program
        return {
            "target": self.target.name,
            "chips": self.chips,
            "program": "update",
            "compile_seconds": round(self.seconds, 1),
            "estimated_cycles": program.cycles if tpu else None,
            "entry_cycles": program.entry_cycles if tpu else None,
            "kernels": None if tpu else program.kernels(),
            "convolutions": None if tpu else program.convolutions(),
            "flops": self.cost.get("flops"),
            "bytes": self.cost.get("bytes accessed"),
            "temporaries_bytes": self.memory["temporaries"],
            "arguments_bytes": self.memory["arguments"],
            "collectives": program.collectives,
            "dataset_copies": len(program.over(self.split)),
        }

    @property
    def rate(self) -> float:
        """Images a second by the compiler's estimate; 0 where it gives none."""
        return self.images * self.target.kind.hertz / self.program.cycles if self.program.cycles else 0.0


def compile_update(
    recipe: Mapping, target: Target, typed: tuple[str, ...] = (), say: Callable[[str], None] = print
) -> Compiled:
    """Compiles the update of a run for a target.

    Args:
        recipe, typed: as for `training.train.train`.
        target: the chips.
        say: takes a line for the user.

    Raises:
        UserError: a mistake in the recipe; the program does not compile, or does not fit into the chip's memory.
    """
    devices = target.devices()
    config, notes = resolve(recipe, typed, devices.count)
    for note in notes:
        say(note)
    builder = Builder(config, say, devices)
    update = builder.update(builder.strategy)
    start = time.monotonic()
    lowered = lower(update, arguments(builder, update), config.seeds)
    try:
        with compiled_anew():
            compiled = lowered.compile()
    except Exception as error:  # the compilers raise their own kinds
        raise UserError(f"The update does not compile for {target.name}: {_reason(error)}") from None
    seconds, sizes = time.monotonic() - start, compiled.memory_analysis()
    memory = {
        "arguments": sizes.argument_size_in_bytes,
        "temporaries": sizes.temp_size_in_bytes,
        "outputs": sizes.output_size_in_bytes - sizes.alias_size_in_bytes,
        "code": sizes.generated_code_size_in_bytes,
    }
    cost = (compiled.cost_analysis() or {}) if target.kind.platform == "tpu" else {}
    images, split = (
        config.batch_size * config.seeds,
        math.prod((len(builder.dataset.train), *builder.dataset.image_shape)),
    )
    return Compiled(target, devices.count, images, seconds, Program(compiled.as_text()), memory, cost, split)


def arguments(builder: Builder, update: Update) -> tuple[State, Totals, data.DeviceSplit]:
    """Returns the arguments of an update of one seed, as shapes with the run's layout on the devices."""
    config, split, streamed = builder.config, builder.split(update.strategy), builder.dataset.streamed
    if config.teacher_views or builder.given:
        sizes = max(1, config.teacher_views), len(builder.dataset.train), builder.dataset.num_classes
        arrays = DeviceBank.arrays(*sizes, config.teacher_bank_dtype, config.teacher_bank_top_k).items()
        own = {name: ((config.batch_size, *shape[2:]) if streamed else shape, dtype) for name, (shape, dtype) in arrays}
        shapes = {name: jax.ShapeDtypeStruct(*array) for name, array in own.items()}
        split = split.replace(bank=builder.devices.shapes(DeviceBank(**shapes, classes=sizes[-1])))
    state = jax.eval_shape(update.first_state, split)
    state = state.replace(frozen={name: update.strategy.frozen[name] for name in state.frozen})
    totals = Totals.empty(update.metric_names(state, split))
    state, totals, split = builder.devices.shapes((state, totals, split), split.labels.shape[0])
    if streamed:  # the rows of one update, divided among the devices

        def by_rows(x):
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=builder.devices.rows)

        split = split.replace(**jax.tree.map(by_rows, {"pictures": split.pictures, "bank": split.bank}))
    return state, totals, split


def lower(update: Update, shapes: tuple[State, Totals, data.DeviceSplit], seeds: int):
    """Lowers the program that a call of `update` runs for `seeds` seeds with arguments of these shapes."""
    devices, examples = update.devices, shapes[-1].labels.shape[0]
    if update.stacked:
        stacked = jax.eval_shape(update.stack, *[[own] * seeds for own in shapes])
        shapes = devices.shapes(stacked, examples, axis=1)
    return update.several.lower(*shapes, 1) if update.many else update.step.lower(*shapes)


@contextlib.contextmanager
def compiled_anew():
    """Leaves JAX's cache of compiled programs alone: a program for devices that do not exist cannot be read back."""
    before = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # otherwise JAX reads the setting once in a process
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        compilation_cache.reset_cache()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def _reason(error: Exception) -> str:
    """What a compiler's error says, in one line: how much memory is missing, or its first line."""
    used = re.search(r"Used ([\d.]+\w+) of ([\d.]+\w+) hbm", str(error))
    if used:
        return f"it needs {used[1]} of memory on a chip, which has {used[2]}.\nLower --batch_size, or take more chips."
    return _first_line(error)


def report(found: Compiled) -> list[str]:
    """The lines of `--compile_for`."""
    target, total = found.target, sum(found.memory.values())
    parts = ", ".join(f"{name} {size_text(size)}" for name, size in found.memory.items())
    share = 100 * total / target.kind.memory
    lines = [
        f"{target.name}, {found.chips} chip{'s' * (found.chips > 1)}: the update compiles, in {found.seconds:.0f} s.",
        f"Memory: {size_text(total)} a chip of {size_text(target.kind.memory)}, {share:.1f} % ({parts}). It fits.",
    ]
    if found.rate:
        lines.append(
            f"Speed, the compiler's estimate: {found.rate:,.0f} images/s, {found.program.cycles / 1e6:.2f} million "
            f"cycles for an update of {found.images:,} images."
        )
    elif target.kind.platform == "gpu":
        kernels, convolutions = found.program.kernels(), found.program.convolutions()
        lines.append(f"An update has {kernels} kernels, {convolutions} of them convolutions. No time is estimated.")
    own = [f"{x['count']} {kind} of {size_text(x['bytes'])}" for kind, x in found.program.collectives.items()]
    return [*lines, f"Collectives of an update: {', '.join(own) or 'none'}."]


def check_fits(found: Compiled) -> None:
    """Raises `UserError` if the program needs more memory than a chip has."""
    total, most = sum(found.memory.values()), found.target.kind.memory
    if total > most:
        raise UserError(
            f"{found.target.name}: the update compiles, and needs {size_text(total)} of memory on a chip, which has "
            f"{size_text(most)}.\nLower --batch_size, or take more chips."
        )


def main(given: command.Command) -> None:
    """Prints what the compiler of the target `--compile_for` says of a run's update; the run does not begin."""
    for flag in ("hosts", "gpu_id"):
        if given.flags[flag]:
            raise UserError(f"--{flag} and --compile_for, which names the devices itself, exclude each other.")
    command.prepare(given)
    found = compile_update(given.recipe, Target(given.flags["compile_for"]), given.typed)
    check_fits(found)
    print("\n".join(report(found)))
