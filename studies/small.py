"""Smaller students: quantised with and without a teacher, pruned and trained again; accuracy, size and latency.

    python -m studies.small [--root runs/small]
    python -m studies.small --dataset CIFAR10 --data_dir DIR --root runs/small-cifar10

Digits: the demo's setting, 100 labels, 3 seeds (configs/digits.py). CIFAR10: all labels, few epochs, 2 seeds
(configs/cifar10_short.py), and the shipped teacher.

Quantised: a ResNet8 that a ResNet20 has distilled. "Measured" has ranges of 512 training images and no training. The
other rows train on from the first float student and are measured with such ranges, too. Pruned: the ResNet20, to 0.3 of
its multiply-adds. What starts from trained weights trains at a tenth of the learning rate. --epochs has the epochs of
the float student, the quantised ones and the pruned ones.

The latencies are medians of calls with one image: of ONNX files with fixed ranges, and of LiteRT files with a range for
each image, if deploy.export has made LiteRT's environment. Finished runs and files are kept: the same command runs only
what is missing. Delete the folder `files` to measure the latencies again.
"""

import pathlib

import data
import pretrained
from configs import cifar10_short, digits
from deploy import derived, export, exported, litert_format, prune, quantize
from models import profile
from pretrained.players import player_of
from registry import UserError
from studies import command, compare, evaluation

IMAGES, SHARE = 512, 0.3
SETTINGS = {  # dataset -> recipe, seeds, the teacher (empty: trained first), epochs
    "Digits": (digits.get_config, 3, "", (22, 6, 22)),
    "CIFAR10": (cifar10_short.get_config, 2, "pretrained/resnet20_cifar10", (3, 1, 1)),
}
SOFT = {"distiller": "SoftLogits"}
LABELS = {"transfer": "Labels", "teacher_arch": "", "teacher_param": ""}


def main(root: pathlib.Path, dataset: str, data_dir: str, seeds: int, epochs: list[int]) -> None:
    """Runs what is missing under `root`; prints both tables and writes them to `table.md`."""
    if dataset not in SETTINGS:
        raise UserError(f"--dataset {dataset}: this study has settings for {' and '.join(SETTINGS)}.")
    recipe, usual, teacher, given = SETTINGS[dataset]
    epochs = epochs or given
    if len(epochs) != len(given):
        raise UserError(f"--epochs has {len(epochs)} numbers; it needs {len(given)}: float, quantised, pruned.")
    recipe = {**recipe(), "seeds": seeds or usual, **({"data_dir": data_dir} if data_dir else {})}
    if teacher:
        recipe |= {"teacher_param": teacher}
    else:
        recipe, _ = compare.teach(root, recipe)
    study = Study(root, recipe, epochs)
    text = f"{dataset}, {recipe['seeds']} seeds, epochs {', '.join(map(str, epochs))}; latencies of one image\n\n"
    text += study.quantised() + "\n\n" + study.pruned() + "\n"
    print("\n" + text, flush=True)
    (root / "table.md").write_text(text)


class Study:
    """The runs of one dataset.

    Args:
        root: the folder of all runs.
        recipe: what they share, with the teacher.
        epochs: of the float student, the quantised students, the pruned students.
    """

    def __init__(self, root: pathlib.Path, recipe: dict, epochs: tuple[int, int, int]):
        self.root, self.recipe, self.epochs = root, recipe, epochs
        self.slow = {"learning_rate": recipe["learning_rate"] / 10}
        own = {"data_dir": recipe["data_dir"]} if "data_dir" in recipe else {}
        self.where = [word for key, value in own.items() for word in (f"--{key}", value)]
        self.dataset = data.load(recipe["dataset"], **own)

    def run(self, name: str, recipe: dict, changes: dict, epochs: int) -> compare.Row:
        """Trains a row, or reads the finished run."""
        print(name, flush=True)
        folder = compare.folder_name(name).replace(",", "")
        return compare.run(self.root / folder, name, recipe, {"train_epoch": epochs, **changes}, quiet=True)

    def top1(self, folder: pathlib.Path | str) -> float:
        """Test top-1 in percent of a folder of weights."""
        return evaluation.measure(str(folder), self.dataset)["top1"]

    def quantised(self) -> str:
        """The table of float and quantised students."""
        student = self.run("Float student", self.recipe, SOFT, self.epochs[0])
        folders = [folder / "last" for folder in student.folders]
        size = quantize.float_bytes(*player_of(pretrained.load(folders[0]), "student"), self.dataset.image_shape)
        times = [self.latency("float", folders[0], to) for to in ("onnx", "litert")]
        rows = [["Float student", compare.spread(student.last()), f"{size / 1000:.1f}", *times]]
        for bits in (8, 4):
            found = {f"Measured, {bits} bits": folders}
            ways = {"without a teacher": LABELS, f"with the {self.recipe['teacher_arch']}": SOFT}
            if bits == 4:  # with 8 bits all rows are alike
                own = {"teacher_arch": self.recipe["student_arch"], "teacher_param": str(folders[0])}
                ways["with its float self"] = {**SOFT, **own}
            for way, changes in ways.items():
                name = f"Trained {way}, {bits} bits"
                start = {"student_quantize": f"int{bits}", "init_param": str(folders[0]), **self.slow, **changes}
                found[name] = [x / "last" for x in self.run(name, self.recipe, start, self.epochs[1]).folders]
            stored = {to: self.as_integers(folders[0], bits, to) for to in ("onnx", "litert")}
            times = [self.latency(f"int{bits}", folder, to) for to, folder in stored.items()]
            size = quantize.integer_bytes(*player_of(pretrained.load(folders[0]), ""), self.dataset.image_shape, bits)
            for name, trained in found.items():
                top1 = [self.top1(self.as_integers(folder, bits, "onnx")) for folder in trained]
                rows.append([name, compare.spread(top1), f"{size / 1000:.1f}", *times])
        titles = [self.recipe["student_arch"], "top-1", "weights, kB", "ONNX, ms", "LiteRT, ms"]
        return compare.markdown(titles, rows)

    def as_integers(self, folder: pathlib.Path, bits: int, to: str) -> pathlib.Path:
        """The weights of a folder with the ranges that integers in a format need; made once."""
        out = folder.parent / f"{folder.name}-int{bits}-{to}"
        if not out.exists():
            weights = pretrained.load(folder)
            images = quantize.some(self.dataset.train, IMAGES) if to == "onnx" else ()
            derived.write(out, weights.variables, quantize.quantize(weights, images, bits)[0])
        return out

    def latency(self, name: str, folder: pathlib.Path | str, to: str) -> str:
        """Milliseconds of a call with one image of the file `name`, which is made once from a folder of weights."""
        if to == "litert" and not litert_format.is_ready():
            return ""
        file = self.root / "files" / f"{name}.{to}"
        if not file.exists():
            print(f"Latency of {file.name}", flush=True)
            flags = ["--param", str(folder), "--to", to, "--out", str(file), "--dataset", self.recipe["dataset"]]
            export.export(export.parser().parse_args([*flags, *self.where]))
        return f"{exported.load(str(file)).facts['milliseconds']['1']:.2f}"

    def pruned(self) -> str:
        """The table of pruned networks."""
        teacher, arch, rows = pretrained.load(self.recipe["teacher_param"]), self.recipe["teacher_arch"], []
        for by in prune.SCORES:
            info, variables, _, _, costs = prune.prune(teacher, by, target=SHARE)
            folder = self.root / f"pruned-{by}"
            if not folder.exists():
                derived.write(folder, variables, info)
            rows.append([f"Pruned by {by}, not trained", *self.cells(folder.name, folder, costs[1])])
        rows.insert(0, [f"{arch}, not pruned", *self.cells("whole", self.recipe["teacher_param"], costs[0])])
        start, numbers = self.root / "pruned-l1", rows[1][2:]
        student = {**self.recipe, "student_arch": arch, "student_options": pretrained.describe(start)["options"]}
        for name, changes in {
            "Pruned by l1, then labels": {**LABELS, **self.slow, "init_param": str(start)},
            "Pruned by l1, then distilled": {**SOFT, **self.slow, "init_param": str(start)},
            "The same widths from random weights, labels": LABELS,
            "The same widths from random weights, distilled": SOFT,
        }.items():
            row = self.run(name, student, changes, self.epochs[2])
            rows.append([name, compare.spread(row.last()), *numbers])
        return compare.markdown([arch, "top-1", "parameters", "multiply-adds", "ONNX, ms"], rows)

    def cells(self, name: str, folder: pathlib.Path | str, cost: profile.Cost) -> list[str]:
        """The cells of weights in a folder: top-1, parameters, multiply-adds, latency of the file `name`."""
        numbers = map(profile.short, (cost.parameters, cost.multiply_adds))
        return [f"{self.top1(folder):.2f}", *numbers, self.latency(name, folder, "onnx")]


if __name__ == "__main__":
    parser = command.parser(__doc__, "runs/small")
    parser.add_argument("--dataset", default="Digits", help=f"{', '.join(SETTINGS)}; default: Digits")
    parser.add_argument("--data_dir", default="", help="folder of TensorFlow Datasets; default: its own")
    parser.add_argument("--seeds", type=command.positive, default=0, help="default: 3 on Digits, 2 on CIFAR10")
    parser.add_argument("--epochs", type=command.numbers, default=[], help="float,quantised,pruned, such as 3,1,1")
    command.call(parser, main)
