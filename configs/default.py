"""Every key of a run: its default, what the key means, its limits, and when the key has an effect.

A recipe is a file with `get_config()` that returns an `ml_collections.ConfigDict` with the keys it changes. Order of
precedence: this file, then the recipe (`--config FILE.py`), then the flags of the command line (`--key value` or
`--config.key=value`).
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from options import between, limited, not_negative, one_of, positive


@dataclasses.dataclass(frozen=True)
class Facts:
    """What conditions on keys know besides the recipe.

    Attributes:
        reads: the keys that matter to the strategy (`transfer.base.Strategy.reads`).
        views: the views of each image that the method and the strategy ask for (`data.make_batch`).
        first_phase: epochs that the method adds before the training proper.
        dataset: returns the dataset; the first call reads its description.
    """

    reads: tuple[str, ...]
    views: tuple[str, ...]
    first_phase: int
    dataset: Callable[[], Any]


def only(key: str, *values) -> Callable[[dict, Facts], str]:
    """A condition on a key: the recipe's `key` is one of `values`, or is not empty or 0 where no value is named."""

    def why_not(config: dict, facts: Facts) -> str:
        del facts
        if config[key] in values if values else config[key]:
            return ""
        wanted = " or ".join(map(repr, values)) if values else "set"
        return f"'{key}' is {config[key]!r}, not {wanted}" if values else f"'{key}' is not set"

    return why_not


def strategy_reads(key: str, otherwise: str) -> Callable[[dict, Facts], str]:
    """A condition on a key: the strategy's `reads` name `key`; `otherwise` says what is so of the strategy instead."""

    def why_not(config: dict, facts: Facts) -> str:
        return "" if key in facts.reads else f"--transfer {config['transfer']} {otherwise}"

    return why_not


def padded_crop(config: dict, facts: Facts) -> str:
    """A condition on a key: images are padded and cropped."""
    pad = config["crop_pad"] if config["crop_pad"] >= 0 else facts.dataset().augmentation.pad
    own = " by default" if config["crop_pad"] < 0 else ""
    return "" if pad else f"images of {config['dataset']} are not cropped{own}; --crop_pad 4 crops them"


def whole_crop(config: dict, facts: Facts) -> str:
    """A condition on a key: no random resized crop."""
    del facts
    share = config["resized_crop"]
    return f"'resized_crop' {share} takes the place of 'crop_pad' and 'crop_mode'" if share else ""


def strong_views(config: dict, facts: Facts) -> str:
    """A condition on a key: something learns from strong views."""
    if "strong" in facts.views:
        return ""
    return f"--distiller {config['distiller']} --transfer {config['transfer']} ask for no strong view; MLKD does"


def one_training(config: dict, facts: Facts) -> str:
    """A condition on a key: the student is trained once, from its first weights to its last."""
    del facts
    if config["transfer"] != "BornAgain":
        return ""
    return "--transfer BornAgain starts the student anew in each generation, and one average would mix generations"


def several_seeds(config: dict, facts: Facts) -> str:
    """A condition on a key: there is more than one replica."""
    del facts
    return "" if config["seeds"] > 1 else "'seeds' is 1"


def within_training(config: dict, facts: Facts) -> str:
    """A condition on `keep_epochs`: the training has so many epochs."""
    epochs = config["train_epoch"] + facts.first_phase
    return "" if config["keep_epochs"] <= epochs else f"the training has {epochs} epochs"


def key(default, text: str, *needs: Callable, free: bool = False, group: str = "more"):
    """A key of a run.

    Args:
        default: the default, or a field of `options` that holds the default and its limit.
        text: the meaning, for `--help`.
        *needs: conditions without which the key has no effect.
        free: the key may differ when a run is resumed.
        group: the heading in `--help`.
    """
    if not isinstance(default, dataclasses.Field):
        default = dataclasses.field(**{"default_factory" if default is dict else "default": default})
    facts = {**default.metadata, "text": text, "needs": needs, "free": free, "group": group}
    if default.default_factory is not dataclasses.MISSING:
        return dataclasses.field(default_factory=default.default_factory, metadata=facts)
    return dataclasses.field(default=default.default, metadata=facts)


DISTILLER = strategy_reads("distiller", "has a loss of its own, whose numbers are --config.transfer_options")
TEACHER = strategy_reads("teacher_arch", "has no other network than the student's; --transfer Offline has a teacher")
TRAINED = strategy_reads("teacher_param", "starts all networks untrained; --teacher_arch names them")
FROZEN = strategy_reads("teacher_views", "has no frozen teacher; --transfer Offline has one")


SIZED = ("ImageFolder", "ImageNet")  # datasets of pictures of any size


@dataclasses.dataclass
class Keys:
    """All keys, with the defaults of `train_w_kd.py`."""

    # The networks. `train_teacher.py` trains one on labels, `train_w_kd.py` distils a teacher into a student.
    student_arch: str = key("ResNet8", "the network that learns", group="who")
    student_options: dict = key(dict, "the student's fields, such as {'patch_size': 4} of a ViT")  # a field
    teacher_arch: str = key(
        "", "the network that teaches, or several: A,B; empty: what the weights are of", TEACHER, group="who"
    )
    teacher_param: str = key(
        "",
        "the teacher's weights: a run folder, or one with weights.safetensors + model.json; or several: P,Q",
        TEACHER,
        TRAINED,
        free=True,
        group="who",
    )
    teacher_dtype: str = key(
        one_of("", "float32", "bfloat16"),
        "the teacher's compute type; empty: dtype's",
        TEACHER,
        TRAINED,
        only("teacher_param"),
        group="who",
    )
    teacher_views: int = key(
        not_negative(0),
        "fixed views of each image, the teacher's logits computed once; 0: fresh views",
        TEACHER,
        FROZEN,
        group="who",
    )
    teacher_bank_dtype: str = key(one_of("float16", "float32"), "how the bank stores logits", only("teacher_views"))
    teacher_bank_top_k: int = key(
        not_negative(0), "logits that the bank stores of each image, the highest; 0: all", only("teacher_views")
    )

    # The method and the strategy.
    distiller: str = key("", "the method, or several joined by +; empty: the strategy's own", DISTILLER, group="who")
    distiller_options: dict = key(dict, "the method's fields; of a sum, a dict for each part", DISTILLER)  # a field
    transfer: str = key("Offline", "the strategy", group="who")
    transfer_options: dict = key(dict, "the strategy's fields")  # a field

    # The data.
    task: str = key("classification", "what labels mean", group="data")
    dataset: str = key("Digits", "the dataset", group="data")
    data_dir: str = key("", "where the dataset lies; empty: the source's default place", free=True, group="data")
    image_size: int = key(
        not_negative(0), "side in pixels, for ImageFolder; 0: 32", only("dataset", *SIZED), group="data"
    )
    resize: int = key(
        not_negative(0),
        "short side in pixels of which the centre is cropped; 0: the aspect is not kept",
        only("dataset", *SIZED),
        group="data",
    )
    interpolation: str = key(
        one_of("", "bilinear", "bicubic"),
        "of the resizing; empty: the dataset's",
        only("dataset", *SIZED),
        group="data",
    )
    channels: int = key(
        limited(0, "be 0, 1 or 3", lambda count: count in (0, 1, 3)),
        "channels of ImageFolder's images: 1 is grey, 3 is colour; 0: 3",
        only("dataset", "ImageFolder"),
        group="data",
    )
    skip_damaged: bool = key(
        False, "leave damaged pictures of ImageFolder out and count them", only("dataset", "ImageFolder"), group="data"
    )
    num_labels: int = key(
        not_negative(0), "labelled images that the label loss sees, class-balanced; 0: all", group="data"
    )
    sampling: str = key(
        one_of("uniform", "balanced"),
        "uniform: an epoch is one pass; balanced: all classes equally often, for long tails",
        only("num_labels", 0),
    )
    class_weights: str = key(
        one_of("none", "balanced"),
        "weights of the label loss; balanced: inversely proportional to the counts of the classes, mean 1",
        only("num_labels", 0),
    )
    label_smoothing: float = key(
        between(0, 1, 0.0), "share of a label that is spread evenly over all classes in the label loss; 0: none"
    )
    crop_pad: int = key(
        limited(-1, "be -1 or more", lambda pad: pad >= -1),
        "padding of the random crop, pixels; -1: the dataset's",
        whole_crop,
    )
    crop_mode: str = key(one_of("zero", "reflect"), "what the padding holds", whole_crop, padded_crop)
    flip: str = key(one_of("auto", "yes", "no"), "random horizontal flips; auto: the dataset's")
    resized_crop: float = key(
        between(0, 1, 0.0), "least share of the area in a random resized crop, instead of crop_pad; 0: none"
    )
    randaugment: int = key(not_negative(0), "operations of RandAugment for each image; 0: none")
    magnitude: int = key(between(0, 30, 9), "magnitude of RandAugment", only("randaugment"))
    trivialaugment: bool = key(
        False, "TrivialAugment (wide): one operation of a random strength for each image", only("randaugment", 0)
    )
    random_erasing: float = key(
        between(0, 1, 0.0), "share of the views in which a rectangle is painted in the dataset's mean colour; 0: none"
    )
    strong_view: str = key(
        one_of("randaugment", "fixmatch"), "strong views: 2 operations of magnitude 10, or FixMatch's", strong_views
    )
    mixup: float = key(not_negative(0.0), "alpha of mixup; 1: shares are uniform, 0: none")
    cutmix: float = key(not_negative(0.0), "alpha of CutMix; with mixup, each image gets one of the two")

    # The optimisation: SGD, the CIFAR-100 benchmark's schedule.
    train_epoch: int = key(positive(30), "passes over the training images", group="recipe")
    batch_size: int = key(positive(64), "images per step, over all devices", group="recipe")
    accumulate: int = key(
        positive(1), "parts of a batch that go through the networks one after the other, for less memory"
    )
    optimizer: str = key(
        one_of("sgd", "adamw", "dot", "muon", "lamb"),
        "the optimizer: sgd, adamw or lamb; dot: a momentum for each of two losses; muon: adamw for what is no matrix",
        group="recipe",
    )
    learning_rate: float = key(positive(0.05), "at the start", group="recipe")
    ramp_epochs: float = key(not_negative(0.0), "epochs in which the learning rate grows to what the schedule says")
    clip_norm: float = key(not_negative(0.0), "longest gradient; 0: any")
    momentum: float = key(between(0, 1, 0.9, with_high=False), "momentum", only("optimizer", "sgd", "dot"))
    dot_delta: float = key(
        0.075,
        "difference of the label loss's and the distillation loss's momentum from momentum",
        only("optimizer", "dot"),
    )
    nesterov: bool = key(False, "Nesterov's momentum", only("optimizer", "sgd"))
    weight_decay: float = key(not_negative(5e-4), "L2 penalty", group="recipe")
    decay_kernels_only: bool = key(False, "no weight decay on biases and batch norm", only("weight_decay"))
    schedule: str = key(one_of("step", "cosine", "constant"), "the learning rate's schedule", group="recipe")
    milestones: tuple = key(
        between(0, 1, (0.625, 0.75, 0.875), with_low=False, with_high=False),
        "shares of the training after which the rate is multiplied by decay_factor",
        only("schedule", "step"),
    )
    decay_factor: float = key(between(0, 1, 0.1, with_low=False), "factor at a milestone", only("schedule", "step"))
    ema_weights: float = key(
        between(0, 1, 0.0, with_high=False),
        "decay of a moving average of the student's weights, which is tested and kept in their place; 0: none",
        one_training,
    )
    dtype: str = key(one_of("float32", "bfloat16"), "compute type; parameters stay float32", group="recipe")
    seed: int = key(not_negative(0), "of everything random", group="recipe")
    seeds: int = key(positive(1), "replicas to train side by side, with seeds from --seed up", group="recipe")
    stack_seeds: str = key(
        one_of("auto", "yes", "no"), "one program for all seeds; auto: yes on GPU and TPU", several_seeds, free=True
    )
    steps_per_call: str = key(
        limited("auto", "be 'auto' or a whole number above 0", lambda x: x == "auto" or (x.isdecimal() and int(x) > 0)),
        "updates in one call at most; auto: 50 on GPU and TPU, 1 on CPU",
        free=True,
        group="run",
    )
    on_nan: str = key(
        one_of("stop", "skip"),
        "at a loss or gradient that is not finite: stop, or skip the update and count it",
        free=True,
        group="run",
    )
    deterministic: bool = key(False, "repeatable kernels on GPU, slower", group="recipe")

    # The run folder.
    train_path: str = key(
        "", "the run's folder; the same command continues the run; empty: runs/<recipe>", free=True, group="run"
    )
    log_every: int = key(positive(50), "steps between log lines", free=True, group="run")
    eval_every: int = key(positive(1), "epochs between tests", free=True, group="run")
    keep_epochs: int = key(
        not_negative(0),
        "keep the weights of every n-th epoch in epochs/; 0: none",
        within_training,
        free=True,
        group="run",
    )
    checkpoint_seconds: float = key(not_negative(30.0), "least time between two checkpoints", free=True, group="run")


KEYS = {field.name: field for field in dataclasses.fields(Keys)}
GROUPS = ("who", "data", "recipe", "run", "more")  # in the order of --help


def get_config() -> ConfigDict:
    """All keys, with the defaults of `train_w_kd.py`."""
    return ConfigDict(dataclasses.asdict(Keys()))
