"""Smaller students on Digits with 100 labels, 3 seeds: quantised with and without a teacher, pruned and trained again.

    python -m studies.small [--root runs/small]

The setting is the demo's (configs/digits.py). Quantised: a ResNet8 that a ResNet20 has distilled. "Measured" has ranges
of 512 training images and no training. The other rows train on from the float student, 6 epochs at a tenth of the
learning rate, and are measured with such ranges, too. Pruned: the ResNet20, to 0.3 of its multiply-adds; the rows that
train have the same 22 epochs. Finished runs are kept: the same command runs only what is missing.
"""

import pathlib

import data
import pretrained
from configs import digits
from deploy import derived, prune, quantize
from models import profile
from pretrained.players import player_of
from studies import command, compare, evaluation

SEEDS, IMAGES, SHARE = 3, 512, 0.3
ON = {"train_epoch": 6, "learning_rate": 0.005}
SOFT = {"distiller": "SoftLogits"}
LABELS = {"transfer": "Labels", "teacher_arch": "", "teacher_param": ""}


def main(root: pathlib.Path) -> None:
    """Runs what is missing under `root`; prints both tables and writes them to `table.md`."""
    recipe, teacher = compare.teach(root, {**digits.get_config(), "seeds": SEEDS})
    dataset = data.load("Digits")
    text = f"Digits, 100 labels, {SEEDS} seeds; teacher ResNet20 {teacher.last()[0]:.2f} %\n\n"
    text += quantised(root, recipe, dataset) + "\n\n" + pruned(root, recipe, dataset) + "\n"
    print("\n" + text, flush=True)
    (root / "table.md").write_text(text)


def quantised(root: pathlib.Path, recipe: dict, dataset: data.Dataset) -> str:
    """The table of float and quantised students: top-1 in percent, size of the weights."""
    student = compare.run(root / "float", "Float student", recipe, SOFT, quiet=True)
    folders = [folder / "last" for folder in student.folders]
    sizes = [quantize.float_bytes(*player_of(pretrained.load(folders[0]), "student"), dataset.image_shape)]
    rows = [["Float student", compare.spread(student.last()), f"{sizes[0] / 1000:.1f}"]]
    for bits in (8, 4):
        found = {f"Measured, {bits} bits": folders}
        own = {"student_quantize": f"int{bits}", "seeds": 1, **ON}
        ways = {"without a teacher": LABELS, "with the ResNet20": SOFT}
        if bits == 4:  # with 8 bits all rows are alike
            ways["with its float self"] = {**SOFT, "teacher_arch": "ResNet8"}
        for name, changes in ways.items():
            path = root / f"int{bits}-{name.replace(' ', '-')}"
            for seed, start in enumerate(folders):
                its = {**own, **changes, "seed": seed, "init_param": str(start)}
                its |= {"teacher_param": str(start)} if "self" in name else {}
                compare.run(path / f"s{seed}", name, recipe, its, quiet=True)
            found[f"Trained {name}, {bits} bits"] = [path / f"s{seed}" / "last" for seed in range(SEEDS)]
        for name, trained in found.items():
            print(name, flush=True)
            top1, size = zip(*(as_deployed(folder, bits, dataset) for folder in trained), strict=True)
            rows.append([name, compare.spread(top1), f"{size[0] / 1000:.1f}"])
    return compare.markdown(["ResNet8", "top-1", "weights, kB"], rows)


def as_deployed(folder: pathlib.Path, bits: int, dataset: data.Dataset) -> tuple[float, int]:
    """(test top-1 in percent, bytes of the weights) of a folder of weights with fixed ranges and integers."""
    weights, out = pretrained.load(folder), folder.parent / f"{folder.name}-int{bits}"
    info, _, size = quantize.quantize(weights, quantize.some(dataset.train, IMAGES), bits)
    derived.write(out, weights.variables, info)
    return evaluation.measure(str(out), dataset)["top1"], size


def pruned(root: pathlib.Path, recipe: dict, dataset: data.Dataset) -> str:
    """The table of pruned networks: top-1 in percent, parameters, multiply-adds."""
    teacher, rows = pretrained.load(recipe["teacher_param"]), []
    for by in prune.SCORES:
        info, variables, _, _, costs = prune.prune(teacher, by, target=SHARE)
        derived.write(root / f"pruned-{by}", variables, info)
        top1 = evaluation.measure(str(root / f"pruned-{by}"), dataset)["top1"]
        rows.append([f"Pruned by {by}, not trained", f"{top1:.2f}", *map(profile.short, cells(costs[1]))])
    start, options = str(root / "pruned-l1"), pretrained.describe(root / "pruned-l1")["options"]
    student = {**recipe, "student_arch": teacher.info["arch"], "student_options": options}
    cost = map(profile.short, cells(prune.prune(teacher, "l1", target=SHARE)[-1][1]))
    numbers = list(cost)
    for name, changes in {
        "Pruned by l1, then labels": {**LABELS, "init_param": start},
        "Pruned by l1, then distilled": {**SOFT, "init_param": start},
        "The same widths from random weights, labels": LABELS,
        "The same widths from random weights, distilled": SOFT,
    }.items():
        print(name, flush=True)
        row = compare.run(root / compare.folder_name(name).replace(",", ""), name, student, changes, quiet=True)
        rows.append([name, compare.spread(row.last()), *numbers])
    full = [profile.short(number) for number in cells(prune.prune(teacher, "l1", target=SHARE)[-1][0])]
    before = evaluation.measure(recipe["teacher_param"], dataset)["top1"]
    rows.insert(0, ["ResNet20, not pruned", f"{before:.2f}", *full])
    return compare.markdown(["ResNet20", "top-1", "parameters", "multiply-adds"], rows)


def cells(cost: profile.Cost) -> tuple[int, int]:
    """The numbers of a cost, in the order of the table."""
    return cost.parameters, cost.multiply_adds


if __name__ == "__main__":
    command.call(command.parser(__doc__, "runs/small"), main)
