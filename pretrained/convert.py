"""Weights that somebody else trained, as this project's weights.safetensors + model.json.

    python -m pretrained.convert resnet56.pth --arch ResNet56 --num_classes 100 --dataset CIFAR100 \\
        --out pretrained/resnet56_c100
    python -m pretrained.convert --hub timm/deit_tiny_patch16_224.fb_in1k --arch ViT_Ti --dataset ImageNet \\
        --out pretrained/deit_ti

SOURCE is a .pth/.pt (needs the extra `torch`; read with weights_only=True, so no code in it runs), a .safetensors
(torchvision's or timm's names, no PyTorch needed), or a msgpack of the older Flax distillation cookbook.
"""

import argparse
import inspect
import json
import math
import pathlib
import sys

import numpy as np
from clu import parameter_overview

import models
import pretrained
from pretrained.foreign_names import COOKBOOK, rename, translate
from pretrained.torch_format import from_torch
from registry import DamagedFileError, UserError, unknown
from training import cli, cpu
from training.evaluation import dataset_of, player_of
from training.metrics import evaluate
from training.step import Predictor

TORCH_FILES = (".pth", ".pt", ".bin", ".tar", ".ckpt")
WRAPPERS = ("model", "state_dict", "net", "model_state_dict")  # mdistiller and RepDistiller write "model"
HUB_FILES = ("model.safetensors", "pytorch_model.bin")
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# what is known without the images: (classes, image shape, mean, deviation of pixels in [0, 1])
DATASETS = {
    "Digits": (10, (8, 8, 1), (0.3058,), (0.3755,)),
    "MNIST": (10, (28, 28, 1), (0.1307,), (0.3081,)),
    "FashionMNIST": (10, (28, 28, 1), (0.2860,), (0.3530,)),
    "CIFAR10": (10, (32, 32, 3), (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "CIFAR100": (100, (32, 32, 3), (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    "ImageNet": (1000, (224, 224, 3), *IMAGENET),
    "ImageFolder": (0, (224, 224, 3), *IMAGENET),
}
# the older cookbook subtracted BGR statistics from RGB pixels; its weights are right with exactly that input
COOKBOOK_MEAN = tuple(x / 255 for x in (113.9, 123.0, 125.3))
COOKBOOK_STD = tuple(x / 255 for x in (66.7, 62.1, 63.0))


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The tensors of a file, under the names it gives them; nothing in it is executed.

    Returns:
        name -> array. PyTorch layout and dotted names, or the older cookbook's: `params/...` and `batch_stats/...`.

    Raises:
        UserError: no such file, no weights in it, or the extra is missing. DamagedFileError: unreadable.
    """
    if not path.is_file():
        raise UserError(f"There is no file '{path}' to convert.")
    if path.suffix == ".safetensors":
        return _plain(_safetensors(path))
    if path.suffix in TORCH_FILES:
        return _plain(_torch(path))
    return _cookbook(path)


def _safetensors(path: pathlib.Path) -> dict:
    import safetensors.numpy

    try:
        return safetensors.numpy.load_file(path)
    except Exception as error:  # safetensors raises its own kinds
        raise DamagedFileError(f"{path} is damaged: {error}. Fetch it again.") from None


def _torch(path: pathlib.Path) -> dict:
    try:
        import torch
    except ImportError:
        raise UserError(
            f"{path} is a PyTorch file, and PyTorch is not installed: pip install 'kd-cookbook[torch]'\n"
            "Or convert it where PyTorch is, with safetensors.torch.save_file(state_dict, 'weights.safetensors')."
        ) from None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle's, zip's and torch's own kinds
        reason = str(error).strip().splitlines()
        raise DamagedFileError(
            f"{path} cannot be read as tensors only: {reason[0][:200] if reason else type(error).__name__}\n"
            "A file with other objects in it could run code, and is refused: save its state_dict alone."
        ) from None
    return _unwrapped(content, path)


def _unwrapped(content, path: pathlib.Path) -> dict:
    """The state_dict in what a training script saved around it."""
    while isinstance(content, dict):
        inner = next((content[key] for key in WRAPPERS if isinstance(content.get(key), dict)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, not a state_dict.")
    tensors = {name: x.detach() for name, x in content.items() if hasattr(x, "detach")}
    return {name: (x.float() if x.is_floating_point() else x).cpu().numpy() for name, x in tensors.items()}


def _plain(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Without the prefixes of wrappers and the counters of batch norms; floats are float32."""
    for prefix in ("module.", "_orig_mod."):
        if state and all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    state = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    if not state:
        raise UserError("The file holds no tensors.")
    floats = {n for n, x in state.items() if x.dtype.kind == "f" or x.dtype.name == "bfloat16"}
    return {name: x.astype(np.float32) if name in floats else x for name, x in state.items()}


def _cookbook(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The older Flax cookbook's file: msgpack of step, params, batch_stats and opt_state."""
    from flax import serialization, traverse_util

    try:
        content = serialization.msgpack_restore(path.read_bytes())
        state = {name: content[name] for name in ("params", "batch_stats")}
        return {n: np.asarray(x) for n, x in traverse_util.flatten_dict(state, sep="/").items()}
    except Exception as error:  # msgpack raises many kinds
        raise DamagedFileError(
            f"{path} is no weights' file that is known here ({type(error).__name__}: {str(error)[:100]}).\n"
            f"Known: .safetensors, {', '.join(TORCH_FILES)}, and msgpack with 'params' and 'batch_stats'."
        ) from None


def is_cookbook(state: dict[str, np.ndarray]) -> bool:
    """Whether `state` is the older Flax cookbook's."""
    return any(name.startswith("params/") for name in state)


def guess_options(arch: str, state: dict[str, np.ndarray]) -> dict:
    """The network's options that the shapes themselves tell."""
    network = models.registry.get(arch)
    if is_cookbook(state):
        return {"padding": "SAME"}
    options = {}
    if arch.startswith("ViT"):
        state = translate("ViT", state)
        if "patch_embed.proj.weight" in state and "pos_embed" in state:
            extra = 1 + ("dist_token" in state)
            patch = state["patch_embed.proj.weight"].shape[-1]
            options["patch_size"] = patch
            options["image_size"] = patch * math.isqrt(state["pos_embed"].shape[1] - extra)
        if "dist_token" in state:
            options["distilled"] = True
    elif arch.startswith("ConvNeXt"):
        state = translate("ConvNeXt", state)
        if "stem.0.weight" in state:
            options["patch_size"] = state["stem.0.weight"].shape[-1]
    elif "stem" in _fields(network):
        if "conv1.weight" in state:
            options["stem"] = "imagenet" if state["conv1.weight"].shape[-1] == 7 else "cifar"
        elif "features.0.0.weight" in state or "conv_stem.weight" in state:
            options["stem"] = "imagenet"
    return options


def _fields(network) -> set[str]:
    """The options of a registry's entry, a class or a function that builds one."""
    built = network(num_classes=2) if not inspect.isclass(network) else network
    return set(getattr(built, "__dataclass_fields__", {}))


def to_variables(model, state: dict[str, np.ndarray], image_shape: tuple[int, int, int]) -> dict:
    """`{"params", "batch_stats"}` of `model`, for images [H, W, C], from the tensors of a file, whoever wrote them."""
    from flax import traverse_util

    if is_cookbook(state):
        return traverse_util.unflatten_dict({rename(n, COOKBOOK): x for n, x in state.items()}, sep="/")
    return from_torch(model, translate(type(model).__name__, state), image_shape)


def fetch(repo: str, file: str = "") -> tuple[pathlib.Path, dict]:
    """A file of the Hugging Face hub, and what the repository's config.json says of the input.

    Args:
        repo: "owner/name".
        file: its name there; empty means the first of `HUB_FILES` that is there.

    Raises:
        UserError: the extra is missing, or nothing can be fetched.
    """
    try:
        import huggingface_hub
    except ImportError:
        raise UserError("--hub needs an extra: pip install 'kd-cookbook[hub]'") from None

    path, reason = None, ""
    for name in [file] if file else HUB_FILES:
        try:
            path = pathlib.Path(huggingface_hub.hf_hub_download(repo_id=repo, filename=name))
            break
        except Exception as error:  # no network, no such repository, no such file: each its own kind
            reason = reason or (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    if path is None:
        raise UserError(f"Cannot fetch {file or ' or '.join(HUB_FILES)} of '{repo}': {reason}")
    try:
        config = json.loads(pathlib.Path(huggingface_hub.hf_hub_download(repo, "config.json")).read_text())
        config = config.get("pretrained_cfg", {})
        return path, {key: config[key] for key in ("mean", "std") if key in config}
    except Exception:  # the description is welcome, not needed
        return path, {}


def check_out(out: pathlib.Path, force: bool) -> None:
    """Raises `UserError` unless weights may be written to `out`: nothing there, or with `force` weights."""
    if not out.name or out.name == "..":
        raise UserError(f"--out '{out}' is no folder of its own; give one such as pretrained/mine.")
    if not out.exists() and not out.is_symlink():
        return
    ours = {pretrained.WEIGHTS, pretrained.DESCRIPTION}
    if out.is_symlink() or not out.is_dir() or not all((out / name).is_file() for name in ours):
        raise UserError(f"--out {out} exists and is no folder of weights; choose another.")
    if not force:
        raise UserError(f"--out {out} exists already; choose another, or replace it with --force.")


def describe(args: argparse.Namespace, state: dict, hub: dict) -> dict:
    """`model.json` but for the accuracy: flags first, then what the source says, then what is known of the dataset."""
    if args.dataset not in DATASETS:
        raise unknown("dataset", args.dataset, DATASETS)
    classes, shape, mean, std = DATASETS[args.dataset]
    if is_cookbook(state):
        mean, std = COOKBOOK_MEAN, COOKBOOK_STD
    mean, std = args.mean or hub.get("mean") or mean, args.std or hub.get("std") or std
    classes = args.num_classes or classes
    if classes < 2:
        raise UserError("--num_classes is needed: how many classes the last layer tells apart.")
    options = {**guess_options(args.arch, state), **args.option}
    size = args.image_size or options.get("image_size") or shape[0]
    return {
        "arch": args.arch,
        "options": options,
        "num_classes": classes,
        "class_names": [str(i) for i in range(classes)],
        "dataset": args.dataset,
        "image_shape": [size, size, len(mean)],
        "mean": list(mean),
        "std": list(std),
        "test_top1": None,
        "source": f"{args.hub}: {args.source or 'weights'}" if args.hub else pathlib.Path(args.source).name,
        "command": " ".join(["python -m pretrained.convert", *args.arguments]),
    }


def convert(args: argparse.Namespace) -> pretrained.Pretrained:
    """Reads, renames, checks, measures where there is data, and writes; nothing is written before all else is done.

    Args:
        args: what `parser` gives.

    Returns:
        What was written.

    Raises:
        UserError: what is wrong and the fix.
    """
    models.registry.check(args.arch)
    out = pathlib.Path(args.out).expanduser()
    check_out(out, args.force)
    path, hub = fetch(args.hub, args.source) if args.hub else (pathlib.Path(args.source or "").expanduser(), {})
    state = read(path)
    info = describe(args, state, hub)
    try:
        pretrained.check_info(info)
    except ValueError as error:
        raise UserError(f"{error}.") from None
    model = models.create(info["arch"], info["num_classes"], **info["options"])
    weights = pretrained.Pretrained(path, to_variables(model, state, tuple(info["image_shape"])), info, "")
    player, variables = player_of(weights, "network", arch=args.arch)
    print(parameter_overview.get_parameter_overview(variables["params"], include_stats=False))
    if args.data_dir is not None:
        _measure(player, variables, info, args)
    check_out(out, args.force)
    out.parent.mkdir(parents=True, exist_ok=True)
    pretrained.save(out, variables, info)
    print(f"Written to {out}; use it with --teacher_param {out}")
    return pretrained.load(out)


def _measure(player, variables: dict, info: dict, args: argparse.Namespace) -> None:
    """Accuracy on the dataset's test split, and its class names, into `info`."""
    cli.use_compilation_cache()
    dataset = dataset_of(info, {"data_dir": args.data_dir})
    if dataset.num_classes != info["num_classes"]:
        raise UserError(f"{args.source} has {info['num_classes']} classes, {dataset.name} {dataset.num_classes}.")
    result = evaluate(Predictor(player, dataset.test.images)(variables), dataset.test.labels)
    info.update(class_names=list(dataset.class_names), test_top1=result["top1"], test=result)
    print(f"Test top-1 on {dataset.name} ({len(dataset.test):,} images): {result['top1']:.2f} %")


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
    """The flags."""
    form = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(prog="python -m pretrained.convert", description=__doc__, formatter_class=form)
    p.add_argument("source", nargs="?", default="", metavar="SOURCE", help="the file; with --hub, its name there")
    p.add_argument("--arch", required=True, help="the network, as in train_w_kd.py --list models")
    p.add_argument("--num_classes", type=int, default=0, help="default: the dataset's")
    p.add_argument("--dataset", required=True, help=f"what it was trained on: {', '.join(DATASETS)}")
    p.add_argument("--out", required=True, help="the folder to write")
    p.add_argument("--force", action="store_true", help="replace weights that are there")
    p.add_argument("--hub", default="", metavar="REPO", help="fetch from the Hugging Face hub (extra hub)")
    p.add_argument("--data_dir", help="where the dataset lies, to measure the accuracy; '' is the default place")
    p.add_argument("--mean", type=_numbers, help="of its input, pixels in [0, 1], such as 0.5,0.5,0.5")
    p.add_argument("--std", type=_numbers, help="likewise")
    p.add_argument("--image_size", type=int, default=0, help="side in pixels; default: the dataset's")
    p.add_argument("--option", type=_option, action="append", default=[], help="of the network: NAME=VALUE; repeatable")
    return p


def main(arguments: list[str] | None = None) -> int:
    """Flags to one call; returns the exit code."""
    cpu.tune()
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
