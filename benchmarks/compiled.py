"""What the compiler of a TPU or GPU says of one distillation update, on a machine without the TPU or GPU.

    python -m benchmarks.compiled --target v5e:2x4 --chips 1 --student_arch ResNet20 --teacher_arch ResNet56 --json

The update is the engine's own (`studies/targets.py`), of data and weights that have shapes and no content
(`studies/stand_ins.py`). `--all` makes the table of every method, strategy and network, and goes on where it was
stopped. The compiler of a TPU is the extra `aot`; a GPU's is the extra `cuda13` in an environment of
its own. docs/accelerators.md says what the numbers mean.
"""

import contextlib
import json
import pathlib
import tempfile

from registry import unknown
from studies import command

DATA = ("cifar100", "cifar10", "tiny_imagenet", "imagenet_part")


def recipe(folder: pathlib.Path, data: str, **keys) -> dict:
    """Returns the recipe of an update on stand-ins.

    Args:
        folder: for the stand-in weights of the teacher.
        data: a dataset of `studies.stand_ins`.
        **keys: of the recipe; `teacher_arch` names a trained teacher where the strategy wants one.
    """
    import transfer
    from studies import stand_ins

    found = {"dataset": f"studies.stand_ins:{data}", "train_path": str(folder / "run"), **keys}
    if "teacher_param" in transfer.registry.get(keys["transfer"]).reads:
        weights = folder / keys["teacher_arch"]
        stand_ins.weights(weights, keys["teacher_arch"], found["dataset"], keys["image_size"])
        found["teacher_param"] = str(weights)
    elif "teacher_arch" not in transfer.registry.get(keys["transfer"]).reads:
        del found["teacher_arch"]
    if "distiller" not in transfer.registry.get(keys["transfer"]).reads:
        del found["distiller"]
    return found


def main(
    target: str, chips: int, data: str, json_: bool, by_part: bool, all_: bool, only: list[str], more: dict, **keys
):
    """Prints the facts; with `all_`, makes the table of everything and returns how many rows failed."""
    from studies import targets

    if all_:
        from benchmarks import everything

        return everything.run(target, only)
    if data not in DATA:
        raise unknown("dataset", data, DATA)
    with tempfile.TemporaryDirectory() as folder:
        own = recipe(pathlib.Path(folder), data, **keys, **more)
        with contextlib.redirect_stdout(None):
            found = targets.compile_update(own, targets.Target(target, chips), say=lambda line: None)
    if json_:
        print(json.dumps(found.facts()), flush=True)
    else:
        print("\n".join(targets.report(found)), flush=True)
    if by_part:
        for cycles, instruction in found.program.dearest(10):
            print(f"{cycles:>10,}  {instruction.opcode:<12} {instruction.name}  {instruction.source}")


if __name__ == "__main__":
    parser = command.parser(__doc__)
    parser.add_argument("--target", default="v5e:2x4", help="KIND:TOPOLOGY of a TPU, or h200")
    parser.add_argument("--chips", type=command.positive, default=1, help="chips of the topology that take part")
    parser.add_argument("--student_arch", default="ResNet20")
    parser.add_argument("--teacher_arch", default="ResNet56")
    parser.add_argument("--distiller", default="SoftLogits")
    parser.add_argument("--transfer", default="Offline")
    parser.add_argument("--batch_size", type=command.positive, default=64)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--seeds", type=command.positive, default=1)
    parser.add_argument("--image_size", type=command.positive, default=32)
    parser.add_argument("--data", default=DATA[0], help=", ".join(DATA))
    parser.add_argument("--more", type=json.loads, default={}, help="more keys of the recipe, as JSON")
    parser.add_argument("--json", dest="json_", action="store_true", help="print one line of JSON")
    parser.add_argument("--by_part", action="store_true", help="also print the ten dearest instructions")
    parser.add_argument("--all", dest="all_", action="store_true", help="make what is missing of docs/accelerators.md")
    parser.add_argument("--only", type=command.names, default=[], help="with --all: these rows alone")
    command.call(parser, main)
