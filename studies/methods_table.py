"""Writes docs/methods.md: what every method transfers, reads, adds and costs, with published and measured results.

    python -m studies.methods_table [--leaderboard runs/methods/resnet8/leaderboard.json ...] [--out docs/methods.md]

What a method reads, and its parameters and memory, are found by tracing the method on the outputs of ResNet-56 and
ResNet-20. The published numbers are those of `configs/published.py`. The measured columns are in
`studies/methods_on_digits.json`; `--leaderboard` replaces them with the results of `python -m studies.all_methods`.
"""

import dataclasses
import json
import math
import pathlib
import re
import textwrap

import jax
import jax.numpy as jnp

import data
import distiller
import models
from configs import published
from models import traces
from registry import UserError
from studies import command
from studies.compare import markdown, spread
from studies.leaderboard import LABELS

PAIRS = {"R56 → R20": "ResNet56,ResNet20", "R32x4 → R8x4": "ResNet32x4,ResNet8x4"}
BATCH, CLASSES, EXAMPLES = 64, 100, 50_000  # CIFAR-100's
MEASURED = pathlib.Path(__file__).parent / "methods_on_digits.json"  # column -> method -> cell
COST = "step / SoftLogits"
TRANSFORMERS = {"student": "ViT_Ti", "teacher": "ViT_S"}
NETWORKS = {  # of methods that cannot train a ResNet-20 by a ResNet-56
    "DeiT": {"student": "ViT_Ti", "distilled": True},
    "ViTKD": TRANSFORMERS,
    "MiniLM": TRANSFORMERS,
    "SimKD": {"student": "Projected", "backbone": "ResNet20", "width": 64},
}
# Methods that `family` assigns by name. The family of the other methods follows from what they read.
FAMILIES = {
    "Class scores": ("SDD", "OFA", "WKDLogit", "DeiT"),
    "Feature maps and embeddings": (),
    "Relations between examples": ("PKT", "RKD", "SP", "CC", "IRG", "CRD", "DCD", "RRD"),
    "Explanation maps": ("CATKD", "ExpKD"),
}
HEAD = """[Choosing a method](choosing.md) says which method to try first.

`python -m studies.methods_table` writes this page. `--distiller NAME` takes a method, `--distiller NAME+NAME`
a sum of methods. The method's file in `distiller/` has the equation, the paper and every deviation from the paper.
`--config configs/cifar100.py:NAME` is the method's recipe on CIFAR-100, as the benchmarks (RepDistiller, mdistiller)
train it.

*Reads* lists the teacher's arrays on which the loss depends. If the student's arrays differ, they follow after
`student`. `stage1-3` are the stages' outputs, `preact` is a stage before its last ReLU, and `classifier` is the
network's own classifier. *Parameters* counts what is trained beside the student (connectors). *Memory* is what the
method carries from step to step. Both are counted for ResNet-56 to ResNet-20 (DeiT: to ViT_Ti with two heads; ViTKD
and MiniLM: ViT_S to ViT_Ti; SimKD: to Projected, whose projector is a part of the student) at 32x32 with 100 classes
and 50,000 images. A method that reads stages has an option `stages`. `--config.distiller_options.stages=1:1,2:3`
pairs the student's stage 1 with the teacher's stage 1, and the student's stage 2 with the teacher's stage 3; `last`
is a network's last stage. ViTKD and MiniLM have an option `blocks` of the same form. *R56 → R20* and *R32x4 → R8x4*
are published top-1 on CIFAR-100 in percent, of the method alone with its benchmark's options."""
MIXED = """If images are mixed (`mixup`, `cutmix`), the label loss reads both labels, weighted by their shares. No
method does so: {names} read only the label of the larger part. The other methods read no labels, unless an option says
so."""
ABSENT = """SSKD (Xu, Liu, Li, Loy, ECCV 2020, arXiv:2006.07114) and HSAKD (Yang, An, Cai, Xu, IJCAI 2021,
arXiv:2107.13715) read every image in four rotations of one and the same crop. The views here (`data.make_batch`) are
independent draws: no view is another view turned, and an image that is not square has no quarter turns. Both methods
also need more than a trained teacher. SSKD first trains a head on the frozen teacher, which recognises an image among
rotated ones. HSAKD's teacher has a classifier of 4 K classes (class and rotation) after every stage, which is trained
with the teacher. The teacher that adapts to its student, the other half of DIST+'s paper, is not here either; DISTPlus
is the loss."""
PUBLISHED = """Top-1 on CIFAR-100 in percent, one table for each source. In the headings the teacher stands above its
student. Networks trained on labels alone ({source}): {alone}."""
OPTIONS = """These options of the benchmarks are not the method's defaults; `configs/cifar100.py` sets them for each
pair. SDD has the scales (1, 2) within a family of networks, as its paper does. MLKD has learning rates of its own."""
DIGITS = """*Digits* is the last top-1 in percent on the 597 test images of the 8x8 digits, as mean ± standard deviation
of 3 seeds. The teacher is ResNet-8x4 at half its widths (99.66). The column names the student (VGG-8 at a quarter of
its widths). The runs have all labels and 6 epochs of 18 steps. Labels alone: {alone}. *step* is the time of a training
step, divided by the time of a step of SoftLogits in the same run. It was measured on one core of a machine that others
were using, so a difference of a tenth means nothing. `python -m studies.all_methods` measures both, with the paired
differences and their 95 % intervals. Methods without a *step* were measured later, at commits dd17e54 and
d14bb90 (FGD at 6e1b6ef), where labels alone have 98.72 ± 0.54 on ResNet-8 and 98.38 ± 0.35 on VGG-8."""
LOOKED_INTO = """All options of these runs are the defaults, which are the benchmarks' for 32x32 images. So the columns
say how a method does with its defaults on small images, not which method is better. Most differences lie within their
intervals.

At 8x8 the last stages have 2x2 or 1x1 positions. This explains most results far below labels alone. AT's loss is a mean
over positions of maps with unit norm. At 2x2 it weighs 16 times as much as at 8x8, and with its weight of 1000 it
outweighs the labels. CATKD's unit maps have the same effect. MLKD adds up 30 terms, of which those at T = 6 are
multiplied by 36, and its strong views of 8x8 digits are hard for the teacher, too: two of VGG-8's three seeds ended
below 40. FSP's first phase is a whole epoch of its loss at weight 50. DIST compares columns over a batch of 64 in which
most classes have six examples. ExplanationMatch teaches VGG-8 nothing: its last map has one position, and a normalised
map of one position is a constant. CWD refuses VGG-8 for the same reason. With their defaults three later methods are
far below labels on ResNet-8: TTM 31.66 ± 26.36 (its weight is for 100 classes), SKD 20.32 ± 0.68 (its second term has
60 % of the gradient from the start) and SemCKD 80.90 ± 4.00. The table has them with the weights in
`configs/digits.py`. FGD takes the whole image for the object.

Methods for transformers ran on a ViT of 4 blocks, 48 channels, 2 heads and patches of 2x2 pixels. The teacher has 96
channels, 4 heads and 60 epochs (96.82). In 12 epochs, with 3 seeds, labels alone have 66.11 ± 4.55, DeiT has
64.49 ± 5.93 (commit c46fcdb), MiniLM 76.77 ± 2.98, ViTKD 66.50 ± 2.60 (commit 789a337). The training is far too short
for a ViT. The command for MiniLM is `python train_w_kd.py --config configs/digits.py --num_labels 0 --optimizer adamw
--learning_rate 0.002 --weight_decay 0.05 --schedule cosine --train_epoch 12 --seeds 3 --teacher_arch ViT_S
--teacher_param TEACHER --student_arch ViT_Ti --config.student_options.width=48 --config.student_options.heads=2
--config.student_options.depth=4 --config.student_options.patch_size=2 --distiller MiniLM
--config.distiller_options.blocks=4:4`. DeiT's student has `--config.student_options.distilled=True`, ViTKD has
`--config.distiller_options.generated=4:4`.

Other settings were tried with the same teacher (commit e74d62f). There labels alone have 98.55 ± 0.26 on ResNet-8
and 98.16 ± 0.34 on VGG-8. AT with a sixteenth of its weight has 97.82 ± 0.17 and 98.16 ± 0.73, CATKD with a
sixteenth of its weight 98.27 ± 0.10 and 97.82 ± 0.17. FSP with a tenth of its weight has 98.72 ± 0.35 and 97.99 ±
0.73. MLKD with a quarter of its learning rate has 98.38 ± 0.42 and 98.16 ± 0.34. The command for AT is `python
train_w_kd.py --config configs/digits.py --num_labels 0 --train_epoch 6 --seeds 3 --teacher_arch ResNet8x4
--teacher_param runs/methods/teacher --student_arch ResNet8 --distiller AT --config.distiller_options.weight=62.0`.
FSP had `warmup_epochs=1`, VGG-8 had `--config.student_options.widths=(16,32,64,128,128)`. Since then
`configs/digits.py` has the options of runs on Digits."""


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a trace of a method shows.

    Attributes:
        student, teacher: names of the arrays that the loss depends on.
        parameters: count of the numbers that the optimizer trains.
        memory: bytes of the method's other variables.
        labels: whether the loss depends on the batch's labels.
    """

    student: tuple[str, ...]
    teacher: tuple[str, ...]
    parameters: int
    memory: int
    labels: bool


def answers(student: str = "ResNet20", teacher: str = "ResNet56", **options) -> tuple[dict, dict]:
    """Returns what a method may read of a student and of a teacher: name -> shape, also of each feature's gradient.

    Args:
        student, teacher: the networks.
        **options: fields of the student's network.
    """

    def of(arch, **options):
        model = models.create(arch, CLASSES, **options)
        image = jax.ShapeDtypeStruct((BATCH, 32, 32, 3), jnp.float32)

        def run(image):
            outputs, _ = models.forward(model, model.init(jax.random.key(0), image), image)
            taps = {**outputs.features, "input": image}
            return {
                "logits": outputs.logits,
                "classifier": outputs.classify(outputs.features["embedding"]),
                **outputs.features,
                **{f"gradient of {name}": value for name, value in taps.items()},
            }

        return jax.eval_shape(run, image)

    return of(student, **options), of(teacher)


def _outputs(seen: dict, views: int) -> models.Outputs:
    """Makes `Outputs` from the arrays in `seen`; the classifier and the gradients use these arrays, too."""

    def head(embedding):
        return jnp.zeros((*embedding.shape[:-1], CLASSES)) + seen["classifier"].mean() + embedding.mean()

    def pullback(cotangent):
        return ({name.removeprefix("gradient of "): seen[name] + cotangent.mean() for name in taps},)

    taps = [name for name in seen if name.startswith("gradient of ")]
    features = {name: value for name, value in seen.items() if name not in ("logits", "classifier", *taps)}
    outputs = models.Outputs(
        logits=seen["logits"],
        features=features,
        pullback=pullback,
        head=head,
    )
    return outputs.replace(views=(outputs,) * (views - 1))


def facts(method: distiller.Distiller, student: dict, teacher: dict) -> Facts:
    """Traces a method on the outputs that `answers` describes; computes nothing."""
    rows = jnp.zeros(BATCH, jnp.int32)
    batch = data.Batch(jnp.zeros((BATCH, 32, 32, 3)), rows, rows, jnp.zeros(()), examples=EXAMPLES)
    keys = {"params": jax.random.key(0), "method": jax.random.key(1)}

    def both(seen):
        return [_outputs(seen[who], len(method.views)) for who in ("student", "teacher")]

    def loss(seen, variables, batch):
        mutable = [collection for collection in variables if collection != "params"]
        return method.apply(variables, *both(seen), batch, rngs=keys, mutable=mutable)[0][0]

    seen = {"student": student, "teacher": teacher}
    variables = dict(jax.eval_shape(lambda seen, batch: method.init(keys, *both(seen), batch), seen, batch))
    reads = traces.read_leaves(loss, seen, variables, batch)
    labels = traces.read_leaves(lambda batch, *others: loss(*others, batch), batch, seen, variables).label
    parameters = variables.pop("params", {})
    return Facts(
        *(tuple(tap for tap, read in reads[who].items() if read) for who in ("student", "teacher")),
        parameters=sum(math.prod(x.shape) for x in jax.tree.leaves(parameters)),
        memory=sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(variables)),
        labels=labels,
    )


def family(name: str, found: Facts) -> str:
    """Returns the heading of a method's table."""
    for title, names in FAMILIES.items():
        if name in names:
            return title
    taps = {*found.student, *found.teacher}
    if any(tap.startswith("gradient of ") for tap in taps):
        return "Explanation maps"
    return "Class scores" if taps <= {"logits"} else "Feature maps and embeddings"


def _listed(taps: tuple[str, ...]) -> str:
    """Joins names with commas. Consecutive stages become one name: `stage1-3`."""
    parts = []
    for suffix in ("", "_preact"):
        numbers = sorted(int(m[1]) for tap in taps if (m := re.fullmatch(rf"stage(\d+){suffix}", tap)))
        if numbers:
            end = f"-{numbers[-1]}" if len(numbers) > 1 else ""
            parts.append(f"stage{numbers[0]}{end}{suffix.replace('_', ' ')}")
    others = [tap for tap in taps if not re.fullmatch(r"stage\d+(_preact)?", tap)]
    return ", ".join([*parts, *sorted(others, key=_natural)])


def _natural(name: str) -> list:
    """A key for sorting in which `block2` comes before `block12`."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _reads(method, found: Facts) -> str:
    text = _listed(found.teacher)
    if set(found.student) != set(found.teacher):
        text += f"; student: {_listed(found.student)}"
    return text + "".join(f"; another view, {kind}" for kind in method.views[1:])


def _memory(count: int) -> str:
    return "" if not count else f"{count:,} B" if count < 1e6 else f"{count / 1e6:.1f} MB"


def columns(paths: list[pathlib.Path]) -> dict[str, dict[str, str]]:
    """Reads leaderboards: a column for each student, and the cost column of the first: column -> method -> cell.

    Raises:
        UserError: the file does not exist, or is no leaderboard.
    """
    found, cost = {}, {}
    for path in paths:
        try:
            rows = {row["name"]: row for row in json.loads(path.read_text())}
            found[f"Digits, {path.resolve().parent.name}"] = {name: spread(row["last"]) for name, row in rows.items()}
            unit = rows["SoftLogits"]["seconds_per_step"]
            cost = cost or {name: f"{row['seconds_per_step'] / unit:.2f}" for name, row in rows.items()}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is no leaderboard.json of studies.all_methods: {error}.") from None
    return {**found, COST: cost}


def page(measured: dict[str, dict[str, str]]) -> str:
    """Returns the text of docs/methods.md.

    Args:
        measured: column -> method -> cell, as in `studies/methods_on_digits.json`.
    """
    student, teacher = answers()
    titles = ["method", "what it transfers", "paper", "reads", "parameters", "memory", *PAIRS, *measured]
    tables: dict[str, list[list[str]]] = {title: [] for title in FAMILIES}
    labelled = []
    for name, line, paper in distiller.registry.describe():
        method, top1 = distiller.create(name), published.top1(name)
        found = facts(method, *(answers(**NETWORKS[name]) if name in NETWORKS else (student, teacher)))
        labelled += [name] * found.labels
        paper = re.sub(r"arXiv:(\d{4}\.\d{5}|\d{4}\.\d{4})", r"[arXiv:\1](https://arxiv.org/abs/\1)", paper)
        cells = [name, line.replace("|", r"\|"), paper, _reads(method, found)]
        cells += [f"{found.parameters:,}" if found.parameters else "", _memory(found.memory)]
        cells += [f"{top1[pair]:.2f}" if pair in top1 else "" for pair in PAIRS.values()]
        tables[family(name, found)].append([*cells, *(column.get(name, "") for column in measured.values())])
    parts = ["# Methods", _filled(HEAD)]
    parts += [f"## {title}\n\n{markdown(titles, rows)}" for title, rows in tables.items()]
    alone = "; ".join(f"{title.removeprefix('Digits, ')} {measured[title][LABELS]}" for title in list(measured)[:-1])
    parts += ["## Measured", _filled(DIGITS.format(alone=alone)), _filled(LOOKED_INTO)]
    parts += ["## Mixed images", _filled(MIXED.format(names=", ".join(labelled)))]
    parts += ["## Not here", _filled(ABSENT)]
    return "\n\n".join([*parts, *_published()]) + "\n"


def _filled(text: str) -> str:
    """Wraps every paragraph at 120 characters."""
    paragraphs = (" ".join(part.split()) for part in text.split("\n\n"))
    return "\n\n".join(textwrap.fill(part, 120, break_on_hyphens=False) for part in paragraphs)


def _published() -> list[str]:
    """Returns the section with the numbers of `configs/published.py`."""
    source = published.TABLES[0].source.rpartition(",")[0]
    alone = ", ".join(f"{arch} {top1:.2f}" for arch, top1 in published.LABELS.items())
    parts = ["## Published", _filled(PUBLISHED.format(source=source, alone=alone))]
    for table in published.TABLES:
        titles = [table.source, *(pair.replace(",", "<br>") for pair in table.pairs)]
        rows = [[name, *("" if n != n else f"{n:.2f}" for n in row)] for name, row in table.rows.items()]
        parts.append(markdown(titles, rows))
    rows = {}
    for method, by_pair in published.OPTIONS.items():
        others = "every other pair" if len(by_pair) > 1 else "every pair"
        for pair, found in by_pair.items():
            text = ", ".join(f"{key}={value}" for key, value in found.items())
            rows.setdefault((method, text), []).append(pair or others)
    cells = [[method, text, " ".join(pairs)] for (method, text), pairs in rows.items()]
    return [*parts, _filled(OPTIONS), markdown(["method", "options", "pairs"], cells)]


def main(leaderboard: list[pathlib.Path], out: pathlib.Path) -> None:
    """Writes the page."""
    measured = json.loads(MEASURED.read_text())
    if leaderboard:
        measured = columns(leaderboard)
        MEASURED.write_text(json.dumps(measured, indent=1, ensure_ascii=False) + "\n")
    out.write_text(page(measured))


if __name__ == "__main__":
    parser = command.parser(__doc__)
    parser.add_argument("--leaderboard", type=pathlib.Path, nargs="*", default=[])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("docs/methods.md"))
    command.call(parser, main)
