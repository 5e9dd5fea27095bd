"""Weights of a teacher that PyTorch's libraries build: from a file, or fetched by the library itself.

`load` stands in the place of `pretrained.load` wherever a teacher is loaded: without a "timm:NAME" or
"torchvision:NAME" it reads a folder of this project's weights.
"""

import hashlib
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

import data
import files
import models
import pretrained
from data import imagenet
from pretrained import naming, reading
from pretrained.lookalikes import looks_like
from pretrained.torch_format import differences
from registry import UserError

HUB = "hub"  # in the place of a file: the library fetches its published weights


def arch_of(param: str, arch: str, command: str = "") -> str:
    """The architecture of the teacher's weights.

    Args:
        param: a folder of weights, a run folder, or what `load` takes for a PyTorch network.
        arch: what the user says; empty: nothing.
        command: as in `pretrained.find`.
    """
    if models.is_torch(arch):
        return arch
    if param == HUB or pathlib.Path(param).expanduser().is_file():
        raise UserError(
            f"--teacher_param {param} is for a network of PyTorch: add --teacher_arch timm:NAME or torchvision:NAME.\n"
            "To convert a file to one of this library's networks: python -m pretrained.convert --help"
        )
    return pretrained.describe(param, command)["arch"]


def options_of(recipe: Mapping) -> dict[str, str]:
    """The keyword arguments of `load` that a recipe or a command line has."""
    return {"taps": recipe.get("teacher_taps", ""), "stats": recipe.get("teacher_input", "own")}


def load_all(params: Sequence[str], archs: Sequence[str], dataset: data.Dataset, **torch: str) -> list:
    """`load` of each of `params`; `archs` is empty or has as many parts."""
    if archs and len(archs) != len(params):
        raise UserError(f"--teacher_arch names {len(archs)} networks and --teacher_param {len(params)} weights.")
    return [
        load(param, arch, dataset, **torch) for param, arch in zip(params, archs or [""] * len(params), strict=True)
    ]


def load(param: str, arch: str, dataset: data.Dataset, taps: str = "", stats: str = "own") -> pretrained.Pretrained:
    """Weights of a teacher.

    Args:
        param: a folder of weights or a run folder; of a PyTorch network a file of its weights, or "hub".
        arch: "timm:NAME" or "torchvision:NAME"; all else means a folder.
        dataset: the data. They decide the channels of a network of timm, and the size of the images that a file's
            network is taken to be of.
        taps: modules of a PyTorch network, joined by commas.
        stats: "own": the mean and deviation that the library publishes for the network; "data": the dataset's.

    Raises:
        UserError: a package is missing, an unknown name, no such file, or a file that does not fit the network.
    """
    if not models.is_torch(arch):
        return pretrained.load(param)
    torch_network = models.registry.module(arch)
    torch_network.check(arch)
    channels, wanted = dataset.image_shape[-1], tuple(tap.strip() for tap in taps.split(",") if tap.strip())
    if param == HUB:
        tensors, digest = _published(torch_network, arch, channels)
        path = pathlib.Path(HUB)
    else:
        path = pathlib.Path(param).expanduser()
        tensors, digest = _file(path, arch)
    program = torch_network.program_of(arch, dataset.num_classes, channels, wanted)
    classes = len(tensors.get(f"{program.classifier}.weight", ())) or dataset.num_classes
    if classes != dataset.num_classes:
        program = torch_network.program_of(arch, classes, channels, wanted)
    have = {name: value.shape for name, value in tensors.items() if name not in program.constants}
    if problems := differences(program.shapes, have):
        raise UserError(
            f"{path} does not fit {arch}: {'; '.join(problems)}.\nIts names are those of {looks_like(tensors)}."
        )
    facts = program.published
    if stats == "own" and len(facts["mean"]) != channels:
        raise UserError(
            f"The published mean of {arch} is of {len(facts['mean'])} channels, {dataset.name} has {channels}.\n"
            "Normalise with the dataset's mean and deviation: --teacher_input data"
        )
    own = facts if stats == "own" else {"mean": dataset.mean, "std": dataset.std}
    size = (facts["size"],) * 2 if param == HUB or facts["fixed"] else dataset.seen_shape[:2]
    names = imagenet.classes() if param == HUB and classes == len(imagenet.classes()) else map(str, range(classes))
    info = {
        "arch": arch,
        "options": {"channels": channels, "taps": list(wanted)},
        "num_classes": classes,
        "class_names": list(names),
        "dataset": arch,
        "image_shape": [*size, channels],
        "mean": list(own["mean"]),
        "std": list(own["std"]),
        "test_top1": None,
    }
    return pretrained.Pretrained(path, program.variables({n: tensors[n] for n in program.shapes}), info, digest)


def _file(path: pathlib.Path, arch: str) -> tuple[dict[str, np.ndarray], str]:
    """(PyTorch's name -> array of one network in a file, the file's SHA-256)."""
    if not path.exists():
        raise UserError(
            f"There is no file '{path}' with weights of {arch}.\n"
            "Give --teacher_param a FILE (.pth, .safetensors), or hub: then the library fetches its published weights."
        )
    chosen = naming.select(path, reading.read(path))
    return chosen.tensors, files.sha256(path)


def _published(torch_network, arch: str, channels: int) -> tuple[dict[str, np.ndarray], str]:
    """(PyTorch's name -> array of the weights that the library fetches, the SHA-256 of their values)."""
    try:
        state = torch_network.create(arch, channels=channels, pretrained=True).state_dict()
    except UserError:
        raise
    except Exception as error:  # no network, no such weights, a full disk: each its own kind
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise UserError(
            f"--teacher_param hub: cannot fetch the weights of {arch}: {reason}\n"
            "Fetch them where there is a network, save them there, and give the file."
        ) from None
    tensors = {name: value.numpy() for name, value in state.items() if value.is_floating_point()}
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].tobytes())
    return tensors, digest.hexdigest()
