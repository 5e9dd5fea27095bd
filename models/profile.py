"""The cost of networks: parameters, multiply-adds, FLOPs, memory of the forward pass, latency on this machine.

    python -m models.profile --arch ResNet56 --arch ResNet20 --image_size 32 --num_classes 100

Without --arch the table has every network. Multiply-adds are counted in the traced program (convolutions and matrix
products, as papers count them); nothing is compiled for them. FLOPs are the compiled program's own cost analysis: about
twice the multiply-adds, plus all other operations. XLA leaves out the products with padding (8 % in a CIFAR ResNet).
On a CPU, `models.xla_cpu` adds products with zeros (13 % in a ResNet-20).
Memory is the peak of the compiled forward pass's temporary memory at batch 1, without parameters and images. Inference
needs this memory. Training needs about the sum of all activations instead. Latency is a median.
"""

import argparse
import dataclasses
import math
import statistics
import sys
import time

import flax.linen as nn
import jax
import jax.numpy as jnp

import models
from models import ops, traces
from registry import UserError


@dataclasses.dataclass(frozen=True)
class Cost:
    """The cost of a network for one image.

    Attributes:
        parameters: learnable numbers.
        multiply_adds: of convolutions and matrix products in one forward pass.
    """

    parameters: int
    multiply_adds: int

    def __str__(self):
        return f"{short(self.parameters)} parameters, {short(self.multiply_adds)} multiply-adds"


def short(number: float) -> str:
    """Three digits and a unit: 40,813,184 -> "40.8 M"."""
    for unit, name in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= 0.9995 * unit:
            return f"{number / unit:.3g}{name}"
    return f"{number:.3g}"


def _shapes(model: nn.Module, image_shape: tuple[int, ...]):
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    return variables, image


def _logits(model: nn.Module):
    return lambda variables, image: models.forward(model, variables, image)[0].logits


def cost(model: nn.Module, image_shape: tuple[int, int, int], variables: dict | None = None) -> Cost:
    """Parameters and multiply-adds of a network; it is traced, and nothing is compiled.

    Args:
        model: a linen Module that returns `Outputs` or bare logits.
        image_shape: (H, W, C) of one image.
        variables: the network's variables or their shapes; None: they are traced.
    """
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    if variables is None:
        variables, _ = _shapes(model, image_shape)
    with ops.plain():
        program = jax.make_jaxpr(_logits(model))(variables, image)
    parameters = sum(math.prod(x.shape) for x in jax.tree.leaves(variables["params"]))
    return Cost(parameters, _multiply_adds(program.jaxpr))


def compare(teacher: Cost, student: Cost) -> str:
    """One line on a teacher and its student, for the head of a run."""
    fewer = teacher.parameters / student.parameters
    cheaper = teacher.multiply_adds / max(student.multiply_adds, 1)
    return f"Cost: teacher {teacher}; student {student}: {fewer:.1f} and {cheaper:.1f} times less."


def _multiply_adds(program) -> int:
    """Multiply-adds of the convolutions and matrix products in a jaxpr, loops and branches included."""
    total = 0
    for equation in program.eqns:
        kind, params = equation.primitive.name, equation.params
        if kind == "conv_general_dilated":
            kernel, out = equation.invars[1].aval.shape, equation.outvars[0].aval.shape
            total += math.prod(out) * math.prod(kernel) // kernel[params["dimension_numbers"].rhs_spec[0]]
        elif kind == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            total += math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)
        elif kind == "cond":
            total += max(map(_multiply_adds, traces.inner(equation)))
        else:
            once = sum(map(_multiply_adds, traces.inner(equation)))
            total += once * (params["length"] if kind == "scan" else 1)
    return total


def measure(model: nn.Module, image_shape: tuple[int, int, int], repeats: int = 20) -> dict[str, float]:
    """The numbers of the table. Compiles the forward pass and runs it on this machine's first device.

    Args:
        model: a linen Module that returns `Outputs` or bare logits.
        image_shape: (H, W, C) of one image.
        repeats: number of runs for the latency.

    Returns:
        `parameters`, `multiply_adds`, `flops`, `memory` (bytes) and `latency` (seconds), at batch 1. `flops` and
        `memory` are NaN if the backend does not report them.
    """
    variables, image = _shapes(model, image_shape)
    found = cost(model, image_shape, variables)
    program = jax.jit(_logits(model)).lower(variables, image).compile()
    analysis, memory = program.cost_analysis() or {}, program.memory_analysis()
    variables = jax.tree.map(lambda x: jnp.full(x.shape, 0.01, x.dtype), variables)  # random values take time
    image = jnp.zeros(image.shape, image.dtype)
    seconds = []
    for _ in range(repeats + 2):
        start = time.perf_counter()
        program(variables, image).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return {
        "parameters": found.parameters,
        "multiply_adds": found.multiply_adds,
        "flops": analysis.get("flops", math.nan),
        "memory": getattr(memory, "temp_size_in_bytes", math.nan),
        "latency": statistics.median(seconds[2:]),
    }


def table(names: list[str], image_size: int, num_classes: int, repeats: int = 20):
    """Yields the table's lines, one network at a time."""
    width = max(14, *(len(name) + 1 for name in names))
    yield f"{'':<{width}}{'parameters':>12}{'mult-adds':>12}{'FLOPs':>12}{'memory MiB':>12}{'latency ms':>12}"
    for name in names:
        try:
            row = measure(models.create(name, num_classes), (image_size, image_size, 3), repeats)
        except ValueError as error:
            yield f"{name:<{width}}{str(error).splitlines()[0]}"
            continue
        counts = "".join(f"{short(row[key]):>12}" for key in ("parameters", "multiply_adds", "flops"))
        yield f"{name:<{width}}{counts}{row['memory'] / 2**20:>12.2f}{1000 * row['latency']:>12.2f}"


def main(arguments: list[str] | None = None) -> int:
    """Flags to one table; returns the exit code."""
    form = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(prog="python -m models.profile", description=__doc__, formatter_class=form)
    p.add_argument("--arch", action="append", metavar="NAME", help="a network; repeatable; default: all classifiers")
    p.add_argument("--image_size", type=int, default=32, help="side in pixels")
    p.add_argument("--num_classes", type=int, default=100)
    p.add_argument("--repeats", type=int, default=20, help="runs for the latency")
    args = p.parse_args(arguments)
    models.xla_cpu.prepare()
    names = args.arch or [name for name in models.names() if not models.is_detector(name)]
    try:
        for name in names:
            models.registry.check(name)
        for key, least in (("image_size", 1), ("num_classes", 2), ("repeats", 1)):
            if getattr(args, key) < least:
                raise UserError(f"--{key} must be at least {least}; got {getattr(args, key)}.")
        size, device = args.image_size, jax.devices()[0].device_kind
        print(f"Images of {size} x {size} x 3, batch 1, float32, on {device}")
        for line in table(names, size, args.num_classes, args.repeats):
            print(line, flush=True)
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
