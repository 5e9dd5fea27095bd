"""Converts weights that somebody else trained to this project's weights.safetensors + model.json.

    python -m pretrained.convert resnet56.pth --arch ResNet56 --num_classes 100 --dataset CIFAR100 \\
        --out pretrained/resnet56_c100
    python -m pretrained.convert --hub timm/deit_tiny_patch16_224.fb_in1k --arch ViT_Ti --dataset ImageNet \\
        --out pretrained/deit_ti

SOURCE is a PyTorch file (needs the extra `torch`; read with weights_only=True, so no code in it runs), a safetensors
file or an index of several (no PyTorch needed), or a msgpack of the older Flax distillation cookbook. The contents
decide the kind, not the ending. Known names are those of torchvision, timm, transformers' ViT and the distillation
benchmarks.
"""

import argparse
import dataclasses
import json
import pathlib
import sys
from collections.abc import Callable

import numpy as np
from clu import parameter_overview

import models
import pretrained
from configs import command
from data.picture import INTERPOLATIONS
from pretrained import card as cards
from pretrained import coco, naming, orders, reading
from pretrained.players import dataset_of, player_of
from registry import UserError, unknown

HUB_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# facts that need no images: (classes, image shape, mean, deviation of pixels in [0, 1])
DATASETS = {
    "Digits": (10, (8, 8, 1), (0.3058,), (0.3755,)),
    "MNIST": (10, (28, 28, 1), (0.1307,), (0.3081,)),
    "FashionMNIST": (10, (28, 28, 1), (0.2860,), (0.3530,)),
    "CIFAR10": (10, (32, 32, 3), (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "CIFAR100": (100, (32, 32, 3), (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    "TinyImageNet": (200, (64, 64, 3), (0.4802, 0.4481, 0.3975), (0.2302, 0.2265, 0.2262)),
    "ImageNet": (1000, (224, 224, 3), *IMAGENET),
    "ImageFolder": (0, (224, 224, 3), *IMAGENET),
    "COCO": (80, (640, 640, 3), *IMAGENET),
    "VOC": (20, (640, 640, 3), *IMAGENET),
}
PICTURES = ("ImageNet", "ImageFolder")  # datasets whose pictures have any size
SHORT_SIDE, INTERPOLATION = 1 / 0.875, "bicubic"  # ImageNet's; the short side is in units of the image's side
# TensorFlow's EfficientNet-Lites read (pixel - 127) / 128, four of them at a size of their own.
LITE_MEAN, LITE_STD = (127 / 255,) * 3, (128 / 255,) * 3
SIZES = {"EfficientNet_Lite1": 240, "EfficientNet_Lite2": 260, "EfficientNet_Lite3": 280, "EfficientNet_Lite4": 300}
# The older cookbook subtracted BGR statistics from RGB pixels. Its weights need exactly that input.
COOKBOOK_MEAN = tuple(x / 255 for x in (113.9, 123.0, 125.3))
COOKBOOK_STD = tuple(x / 255 for x in (66.7, 62.1, 63.0))


def fetch(repo: str, file: str = "") -> tuple[pathlib.Path, cards.Card, Callable[[str], pathlib.Path]]:
    """Downloads weights and their config.json from the Hugging Face hub.

    Args:
        repo: "owner/name".
        file: the file's name in the repository; empty means the first of `HUB_FILES` that it has.

    Returns:
        (the file, the card, a function that downloads another file of the repository).

    Raises:
        UserError: the extra `hub` is missing, or no weights can be fetched.
    """
    try:
        import huggingface_hub
    except ImportError:
        raise UserError("--hub needs an extra: pip install 'kd-cookbook[hub]'") from None

    def download(name):
        try:
            return pathlib.Path(huggingface_hub.hf_hub_download(repo_id=repo, filename=name))
        except Exception as error:  # no network, no such repository, no such file: each its own kind
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            raise UserError(f"Cannot fetch {name} of '{repo}': {reason}") from None

    path, errors = None, []
    for name in [file] if file else HUB_FILES:
        try:
            path = download(name)
            break
        except UserError as error:
            errors.append(error)
    if path is None:
        raise errors[0]
    try:
        return path, cards.read(download(cards.NAME)), download
    except UserError:  # not every repository has a card
        return path, cards.Card(), download


def check_out(out: pathlib.Path, force: bool) -> None:
    """Raises `UserError` unless `out` does not exist, or is a folder of weights and `force` is set."""
    if not out.name or out.name == "..":
        raise UserError(f"--out '{out}' is no folder of its own; give one such as pretrained/mine.")
    if not out.exists() and not out.is_symlink():
        return
    ours = {pretrained.WEIGHTS, pretrained.DESCRIPTION}
    if out.is_symlink() or not out.is_dir() or not all((out / name).is_file() for name in ours):
        raise UserError(f"--out {out} exists and is no folder of weights; choose another.")
    if not force:
        raise UserError(f"--out {out} exists already; choose another, or replace it with --force.")


def class_names(path: str) -> list[str]:
    """Reads class names from a file: one name a line, or a JSON list, in the order of the network's outputs.

    Raises:
        UserError: the file cannot be read, a name is no text, or a name occurs twice.
    """
    try:
        text = pathlib.Path(path).expanduser().read_text("utf-8-sig")
        listed = text.lstrip().startswith("[")
        names = json.loads(text) if listed else [line.strip() for line in text.splitlines() if line.strip()]
    except OSError as error:
        raise UserError(f"Cannot read --class_names {path}: {error.strerror}.") from None
    except ValueError as error:
        raise UserError(f"--class_names {path} is neither lines of text nor a JSON list: {error}.") from None
    if not all(isinstance(name, str) for name in names):
        raise UserError(f'--class_names {path}: every name must be a text, such as "0".')
    twice = [name for i, name in enumerate(names) if name in names[:i]]
    if twice:
        raise UserError(f"--class_names {path} has '{twice[0]}' twice; every class needs a name of its own.")
    return names


def describe(args: argparse.Namespace, chosen: naming.Selection, card: cards.Card) -> dict:
    """`model.json` without the accuracy. Entries come from the flags, else from config.json, else from `DATASETS`."""
    if args.dataset not in DATASETS:
        raise unknown("dataset", args.dataset, DATASETS)
    classes, shape, mean, std = DATASETS[args.dataset]
    if naming.is_cookbook(chosen.tensors):
        mean, std = COOKBOOK_MEAN, COOKBOOK_STD
    elif args.arch.startswith("EfficientNet_Lite") and naming.is_tensorflow_port(chosen.tensors):
        mean, std = LITE_MEAN, LITE_STD
    mean, std = args.mean or card.mean or mean, args.std or card.std or std
    names = class_names(args.class_names) if args.class_names else []
    classes = args.num_classes or len(names) or naming.guess_classes(args.arch, chosen.tensors) or classes
    if classes < 1:
        raise UserError("--num_classes is needed: how many classes the last layer tells apart.")
    classes = max(classes, 2)  # a network with one output has two classes (naming.variables_of)
    if names and len(names) != classes:
        raise UserError(f"--class_names {args.class_names} has {len(names)} names for {classes} classes.")
    known = card.class_names if len(set(card.class_names)) == classes else map(str, range(classes))
    known = (args.dataset == "COCO" and coco.names(classes)) or known
    options = {**naming.guess_options(args.arch, chosen.tensors, card.architectures), **args.option}
    size = args.image_size or options.get("image_size") or card.image_size
    size = size or (args.dataset == "ImageNet" and SIZES.get(args.arch)) or shape[0]
    name = f"{args.hub}: {args.source or 'weights'}" if args.hub else pathlib.Path(args.source).name
    return {
        "arch": args.arch,
        "options": options,
        "num_classes": classes,
        "class_names": names or list(known),
        "dataset": args.dataset,
        "image_shape": [size, size, len(mean)],
        "mean": list(mean),
        "std": list(std),
        **resizing(args, size, card),
        "test_top1": None,
        "source": f"{name} ({chosen.prefix.rstrip('.')})" if chosen.prefix else name,
        "command": " ".join(["python -m pretrained.convert", *args.arguments]),
    }


def resizing(args: argparse.Namespace, size: int, card: cards.Card) -> dict:
    """The entries `resize` and `interpolation` of `model.json`; the flags alone for images that keep their size."""
    given = {"resize": args.resize, "interpolation": args.interpolation}
    if args.dataset not in PICTURES and size == DATASETS[args.dataset][1][0]:
        return {key: value for key, value in given.items() if value}
    own = {"resize": round(size * SHORT_SIDE), "interpolation": INTERPOLATION} if args.dataset == "ImageNet" else {}
    of_card = {"resize": card.resize if size == card.image_size else 0, "interpolation": card.interpolation}
    return own | {key: value for facts in (of_card, given) for key, value in facts.items() if value}


def convert(args: argparse.Namespace) -> pretrained.Pretrained:
    """Reads, renames and checks weights, measures them if `--data_dir` is given, and writes them last.

    Args:
        args: what `parser` returned.

    Returns:
        The weights that were written.

    Raises:
        UserError: the message says what is wrong, and the fix.
    """
    models.registry.check(args.arch)
    if args.data_dir is not None and models.is_detector(args.arch):
        raise UserError(
            f"--data_dir measures classifiers, and {args.arch} is a detector.\n"
            f"Convert without it; then python evaluate.py --param {args.out} --data_dir {args.data_dir}"
        )
    out = pathlib.Path(args.out).expanduser()
    check_out(out, args.force)
    path, shard = pathlib.Path(args.source or "").expanduser(), None
    if args.hub:
        path, card, shard = fetch(args.hub, args.source)
    else:
        card = cards.read(path.with_name(cards.NAME)) if path.name else cards.Card()
    cards.check(card, args.arch)
    chosen = naming.select(path, reading.read(path, shard), args.prefix, args.weights)
    info = describe(args, chosen, card)
    try:
        pretrained.check_info(info)
    except ValueError as error:
        raise UserError(f"{error}.") from None
    model = models.create(info["arch"], info["num_classes"], **info["options"])
    variables = naming.variables_of(model, chosen, tuple(info["image_shape"]), args.arch)
    weights = pretrained.Pretrained(path, variables, info, "")
    player, variables = player_of(weights, "network", arch=args.arch)
    print(parameter_overview.get_parameter_overview(variables["params"], include_stats=False))
    if (card.mean and not args.mean) or (card.std and not args.std):
        chosen.notes.append(f"Input: mean {info['mean']} and std {info['std']}, by {card.path}.")
    print("\n".join([f"Read: {path}", *chosen.notes]))
    if args.data_dir is None:
        measure = "evaluate.py" if models.is_detector(args.arch) else "--data_dir"
        print(f"Note: names and shapes agree. Only {measure} shows whether the network computes the same.")
    else:
        named = bool(args.class_names) or tuple(info["class_names"]) == card.class_names
        _measure(player, variables, info, args, named)
    check_out(out, args.force)
    out.parent.mkdir(parents=True, exist_ok=True)
    pretrained.save(out, variables, info)
    print(f"Written to {out}; use it with --teacher_param {out}")
    return pretrained.load(out)


def _measure(player, variables: dict, info: dict, args: argparse.Namespace, named: bool) -> None:
    """Measures the accuracy on the test split. Writes it, and the class names in the network's order, into `info`.

    Args:
        player, variables: the network.
        info: see `pretrained.Pretrained.info`; changed.
        args: the flags.
        named: whether `info` has real class names. Else the network's order is taken to be the dataset's.

    Raises:
        UserError: the dataset has other classes, the answers fit another order of the classes far better, or the
            accuracy is no better than a guess.
    """
    from studies.evaluation import logits_of
    from tasks.classification import Classification

    dataset = dataset_of(info, {"data_dir": args.data_dir})
    if dataset.num_classes != info["num_classes"]:
        raise UserError(f"{args.source} has {info['num_classes']} classes, {dataset.name} {dataset.num_classes}.")
    names, labels = list(dataset.class_names), dataset.test.labels
    if named and set(info["class_names"]) == set(names):  # the same classes, maybe in another order
        names = info["class_names"]
        labels = np.array([names.index(name) for name in dataset.class_names])[labels]
    elif args.class_names:
        strange = next(name for name in info["class_names"] if name not in names)
        raise UserError(
            f"--class_names {args.class_names}: {dataset.name} has no class '{strange}'.\n"
            f"Its classes are {', '.join(names[:8])}{' ...' if len(names) > 8 else ''}."
        )
    logits = logits_of(dataclasses.replace(player, **dataset.view()), variables, dataset)
    result = Classification().metrics(logits, labels)
    _check_order(np.argmax(logits, axis=1), labels, names, result["top1"])
    info.update(class_names=names, test_top1=result["top1"], test=result)
    print(f"Test top-1 on {dataset.name} ({len(dataset.test):,} images): {result['top1']:.2f} %")


def _check_order(prediction: np.ndarray, labels: np.ndarray, names: list[str], top1: float) -> None:
    found = orders.better(prediction, labels, names)
    if found:
        how, order, accuracy = found
        listed = [", ".join(some[:12]) + (" ..." if len(some) > 12 else "") for some in (names, order)]
        raise UserError(
            f"Test top-1 is {top1:.2f} % with the classes in the order {listed[0]}, and {accuracy:.2f} % in the order "
            f"{listed[1]} ({how}).\nGive the network's order: --class_names FILE, one name a line."
        )
    guess = orders.no_better_than_chance(prediction, labels)
    if guess:
        raise UserError(
            f"Test top-1 is {top1:.2f} % on {len(labels):,} images; guessing reaches {100 * orders.chance(labels):.2f} "
            f"%.\nCheck --arch, --mean, --std, --image_size and the order of the classes (--class_names). "
            "Without --data_dir nothing is measured."
        )
    if guess is None:
        print(f"Note: {len(labels)} test images are too few to tell a good network from a guess.")


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


def _option(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"give NAME=VALUE; got '{text}'")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def parser() -> argparse.ArgumentParser:
    """Defines the flags."""
    form = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(prog="python -m pretrained.convert", description=__doc__, formatter_class=form)
    p.add_argument("source", nargs="?", default="", metavar="SOURCE", help="the file; with --hub, its name in REPO")
    p.add_argument("--arch", required=True, help="the network, as in train_w_kd.py --list models")
    p.add_argument(
        "--num_classes", type=int, default=0, help="default: the dataset's; 1: one output becomes two logits"
    )
    p.add_argument(
        "--class_names", default="", metavar="FILE", help="in the outputs' order: one a line, or a JSON list"
    )
    p.add_argument("--dataset", required=True, help=f"what it was trained on: {', '.join(DATASETS)}")
    p.add_argument("--out", required=True, help="the folder to write")
    p.add_argument("--force", action="store_true", help="replace the weights in --out")
    p.add_argument("--hub", default="", metavar="REPO", help="fetch from the Hugging Face hub (extra hub)")
    p.add_argument("--data_dir", help="folder of the dataset; measures the accuracy; '' is the default place")
    p.add_argument("--mean", type=_numbers, help="of the input, pixels in [0, 1], such as 0.5,0.5,0.5")
    p.add_argument("--std", type=_numbers, help="deviation of the input, likewise")
    p.add_argument("--image_size", type=int, default=0, help="side in pixels; default: the dataset's")
    p.add_argument("--resize", type=int, default=0, help="short side in pixels that images are cropped from")
    p.add_argument("--interpolation", choices=INTERPOLATIONS, default="", help="of the resizing")
    p.add_argument("--prefix", help="prefix of the names to take, such as module.student; default: found")
    p.add_argument("--weights", choices=("raw", "ema"), default="", help="where a file has both; default: raw")
    p.add_argument("--option", type=_option, action="append", default=[], help="of the network: NAME=VALUE; repeatable")
    return p


def main(arguments: list[str] | None = None) -> int:
    """Parses flags and converts. Returns the exit code."""
    command.tune()
    args = parser().parse_args(arguments)
    args.option, args.arguments = dict(args.option), sys.argv[1:] if arguments is None else arguments
    try:
        if not args.source and not args.hub:
            raise UserError("Give the file to convert, or --hub REPO.")
        convert(args)
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
