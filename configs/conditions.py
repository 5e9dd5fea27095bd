"""Conditions: functions (config, facts) -> why a key of a recipe has no effect; empty if the key has an effect."""

import dataclasses
from collections.abc import Callable
from typing import Any

TORCH_LIBRARIES = ("timm", "torchvision")  # in front of the name of a teacher that one of them builds
FOLDERS = ("ImageFolder", "Images")  # datasets that are folders of your own pictures
BOXED = ("COCO", "VOC")  # datasets that are folders of pictures with boxes
SIZED = (*FOLDERS, *BOXED, "ImageNet", "TinyImageNet")  # datasets whose pictures may have any size
SOURCES = ("tfds", "hf")  # libraries whose datasets have a name of two parts, such as tfds:oxford_iiit_pet


@dataclasses.dataclass(frozen=True)
class Facts:
    """The facts beside the recipe that conditions on keys use.

    Attributes:
        reads: the keys that matter to the strategy (`transfer.base.Strategy.reads`).
        views: the views of each image that the method and the strategy ask for (`data.make_batch`).
        first_phase: epochs that the method adds before the training proper.
        dataset: returns the dataset; the first call reads its description.
        devices: returns the number of devices.
    """

    reads: tuple[str, ...]
    views: tuple[str, ...]
    first_phase: int
    dataset: Callable[[], Any]
    devices: Callable[[], int]


def only(key: str, *values) -> Callable[[dict, Facts], str]:
    """A condition: the recipe's `key` is one of `values`; without `values`, it is neither empty nor 0."""

    def why_not(config: dict, facts: Facts) -> str:
        del facts
        if config[key] in values if values else config[key]:
            return ""
        wanted = " or ".join(map(repr, values)) if values else "set"
        return f"'{key}' is {config[key]!r}, not {wanted}" if values else f"'{key}' is not set"

    return why_not


def given_start(config: dict, facts: Facts) -> str:
    """A condition: the student starts from trained weights, or its classifier starts as the teacher's."""
    del facts
    given = config["init_param"] or config["init_head"] == "teacher"
    return "" if given else "'init_param' is not set and 'init_head' is not 'teacher'"


def strategy_reads(key: str, otherwise: str) -> Callable[[dict, Facts], str]:
    """A condition: the strategy's `reads` contain `key`; `otherwise` completes the message "--transfer NAME ..."."""

    def why_not(config: dict, facts: Facts) -> str:
        return "" if key in facts.reads else f"--transfer {config['transfer']} {otherwise}"

    return why_not


def padded_crop(config: dict, facts: Facts) -> str:
    """A condition: images are padded and cropped."""
    pad = config["crop_pad"] if config["crop_pad"] >= 0 else facts.dataset().augmentation.pad
    own = " by default" if config["crop_pad"] < 0 else ""
    return "" if pad else f"images of {config['dataset']} are not cropped{own}; --crop_pad 4 crops them"


def whole_crop(config: dict, facts: Facts) -> str:
    """A condition: no random resized crop."""
    del facts
    share = config["resized_crop"]
    return f"'resized_crop' {share} takes the place of 'crop_pad' and 'crop_mode'" if share else ""


def strong_views(config: dict, facts: Facts) -> str:
    """A condition: the method or the strategy asks for strong views."""
    if "strong" in facts.views:
        return ""
    return f"--distiller {config['distiller']} --transfer {config['transfer']} ask for no strong view; MLKD does"


def classified(config: dict, facts: Facts) -> str:
    """A condition: the label of each image is a class."""
    dataset = facts.dataset()
    if not dataset.labelled:
        return f"{config['dataset']} has no labels"
    return f"images of {config['dataset']} have objects, not one class each" if dataset.task == "detection" else ""


def one_training(config: dict, facts: Facts) -> str:
    """A condition: the student is trained once, from its first weights to its last."""
    del facts
    if config["transfer"] != "BornAgain":
        return ""
    return "--transfer BornAgain starts the student anew in each generation, and one average would mix generations"


def several_seeds(config: dict, facts: Facts) -> str:
    """A condition: the run has several seeds."""
    del facts
    return "" if config["seeds"] > 1 else "'seeds' is 1"


def several_devices(config: dict, facts: Facts) -> str:
    """A condition: the run has several devices."""
    del config
    return "" if facts.devices() > 1 else "the run has one device"


def within_training(config: dict, facts: Facts) -> str:
    """A condition: the training has at least `keep_epochs` epochs."""
    epochs = config["train_epoch"] + facts.first_phase
    return "" if config["keep_epochs"] <= epochs else f"the training has {epochs} epochs"


def network_teaches(config: dict, facts: Facts) -> str:
    """A condition on a key: the teacher is a network that can be asked."""
    del facts
    return f"'teacher_logits' {config['teacher_logits']} are the teacher's answers" if config["teacher_logits"] else ""


def has_bank(config: dict, facts: Facts) -> str:
    """A condition on a key: the teacher's logits lie in a bank."""
    del facts
    return "" if config["teacher_views"] or config["teacher_logits"] else "'teacher_views' is not set"


def torch_teaches(config: dict, facts: Facts) -> str:
    """A condition on a key: a teacher is a network of PyTorch."""
    del facts
    named = any(f"{library}:" in config["teacher_arch"] for library in TORCH_LIBRARIES)
    return "" if named else "--teacher_arch names no network of PyTorch, such as timm:resnet18"


def streamed(config: dict, facts: Facts) -> str:
    """A condition on a key: the images are streamed."""
    del config
    return "" if facts.dataset().streamed else "the images lie in memory; --loading stream streams them"


def in_memory(config: dict, facts: Facts) -> str:
    """A condition on a key: the images lie in memory."""
    del config
    return "streamed images come one update at a time" if facts.dataset().streamed else ""


def has_files(config: dict, facts: Facts) -> str:
    """A condition on a key: the fingerprint of the data is that of the names and sizes of their files."""
    known = config["dataset"] in FOLDERS and not facts.dataset().streamed
    if sized(config["dataset"]) and not known:
        return ""
    return f"the fingerprint of {config['dataset']}{' in memory' * known} covers every image already"


def sized(dataset: str) -> bool:
    """Whether the pictures of a dataset may have any size."""
    return dataset in SIZED or dataset.partition(":")[0] in SOURCES


def resized(config: dict, facts: Facts) -> str:
    """A condition on a key: images are resized."""
    del facts
    if sized(config["dataset"]) or config["image_size"]:
        return ""
    return f"images of {config['dataset']} keep their size; --image_size resizes them"


DISTILLER = strategy_reads("distiller", "has a loss of its own, whose numbers are --config.transfer_options")
TEACHER = strategy_reads("teacher_arch", "has no other network than the student's; --transfer Offline has a teacher")
TRAINED = strategy_reads("teacher_param", "starts all networks untrained; --teacher_arch names them")
FROZEN = strategy_reads("teacher_views", "has no frozen teacher; --transfer Offline has one")
