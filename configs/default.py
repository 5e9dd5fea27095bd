"""Every key of a run: its default, meaning and limits, and the conditions under which it has an effect.

A recipe is a file with `get_config()`, which returns an `ml_collections.ConfigDict` of the keys to change. The recipe
(`--config FILE.py`) overrides this file. The flags of the command line (`--key value` or `--config.key=value`) override
both.
"""

import dataclasses
from collections.abc import Callable

from ml_collections import ConfigDict

from configs.conditions import (
    BOXED,
    DISTILLER,
    FOLDERS,
    FROZEN,
    TEACHER,
    TRAINED,
    classified,
    given_start,
    has_bank,
    has_files,
    in_memory,
    network_teaches,
    one_training,
    only,
    padded_crop,
    resized,
    several_devices,
    several_seeds,
    streamed,
    strong_views,
    torch_teaches,
    whole_crop,
    within_training,
)
from options import between, limited, not_negative, one_of, positive


def key(default, text: str, *needs: Callable, free: bool = False, group: str = "more"):
    """A key of a run.

    Args:
        default: the default, or a field of `options` that holds the default and its limit.
        text: the meaning, for `--help`.
        *needs: conditions; the key has an effect if all of them hold.
        free: the key may differ when a run is resumed.
        group: the heading in `--help`.
    """
    if not isinstance(default, dataclasses.Field):
        default = dataclasses.field(**{"default_factory" if default is dict else "default": default})
    facts = {**default.metadata, "text": text, "needs": needs, "free": free, "group": group}
    if default.default_factory is not dataclasses.MISSING:
        return dataclasses.field(default_factory=default.default_factory, metadata=facts)
    return dataclasses.field(default=default.default, metadata=facts)


@dataclasses.dataclass
class Keys:
    """All keys, with the defaults of `train_w_kd.py`."""

    # The networks. `train_teacher.py` trains one on labels, `train_w_kd.py` distils a teacher into a student.
    student_arch: str = key("ResNet8", "the network that learns", group="who")
    student_options: dict = key(dict, "options of the student's network, such as {'patch_size': 4} of a ViT")
    student_quantize: str = key(
        one_of("none", "int8", "int4"),
        "the student computes with numbers of integers: int8; int4: weights of 4 bits, inputs of 8",
        only("dtype", "float32"),
        group="who",
    )
    init_param: str = key(
        "",
        "weights that the student starts from: a run folder, or as --teacher_param; or several: student's,peers'",
        free=True,
        group="who",
    )
    init_head: str = key(
        one_of("random", "teacher"),
        "teacher: the student's classifier starts as the teacher's",
        TEACHER,
        TRAINED,
        only("teacher_param"),
        group="who",
    )
    freeze: str = key("", "parts of the student that stay as they start, such as stem,stage1", given_start, group="who")
    head_learning_rate: float = key(
        not_negative(0.0), "the classifier's learning rate; 0: the run's", given_start, group="recipe"
    )
    teacher_logits: str = key(
        "",
        "the teacher's logits on the training images, in the place of a network: FILE.npy, or module:function",
        TEACHER,
        FROZEN,
        free=True,
        group="who",
    )
    teacher_arch: str = key(
        "",
        "the teacher's network, or several: A,B; empty: as in teacher_param; of PyTorch: timm:NAME, torchvision:NAME",
        TEACHER,
        network_teaches,
        group="who",
    )
    teacher_param: str = key(
        "",
        "the teacher's weights: a run folder, a folder with weights.safetensors + model.json, or hf:OWNER/NAME; "
        "several: P,Q; of timm: or torchvision: a FILE, or hub",
        TEACHER,
        TRAINED,
        network_teaches,
        free=True,
        group="who",
    )
    teacher_dtype: str = key(
        one_of("", "float32", "bfloat16"),
        "the teacher's compute type; empty: the same as dtype",
        TEACHER,
        TRAINED,
        only("teacher_param"),
        group="who",
    )
    teacher_taps: str = key(
        "",
        "modules of a PyTorch teacher whose outputs are stage1, stage2, ...: layer1,layer2; empty: logits alone",
        TEACHER,
        FROZEN,
        torch_teaches,
        group="who",
    )
    teacher_input: str = key(
        one_of("own", "data"),
        "mean and deviation of a PyTorch teacher's input: the published ones, or the dataset's",
        TEACHER,
        FROZEN,
        torch_teaches,
        group="who",
    )
    teacher_image_size: int = key(
        not_negative(0),
        "side in pixels at which the teacher sees the student's views; 0: the student's",
        TEACHER,
        TRAINED,
        only("teacher_param"),
        group="who",
    )
    teacher_views: int = key(
        not_negative(0),
        "fixed views of each image, for which the teacher's logits are computed once; 0: new views in every epoch",
        TEACHER,
        FROZEN,
        group="who",
    )
    teacher_bank_dtype: str = key(one_of("float16", "float32"), "type of the stored logits", has_bank)
    teacher_bank_top_k: int = key(
        not_negative(0), "store only this many logits of each image, the highest; 0: all", has_bank
    )

    # The method and the strategy.
    distiller: str = key("", "the method, or several joined by +; empty: the default", DISTILLER, group="who")
    distiller_options: dict = key(dict, "the method's options; for several methods, a dict for each", DISTILLER)
    transfer: str = key("Offline", "the strategy", group="who")
    transfer_options: dict = key(dict, "the strategy's options")

    # The data.
    task: str = key("auto", "what labels mean; auto: the dataset's own task", group="data")
    task_options: dict = key(dict, "the task's options (the fields of its class in tasks/)")
    dataset: str = key("Digits", "the dataset; Images: a folder of images without labels", group="data")
    data_dir: str = key("", "the folder of the dataset; empty: the default of its source", free=True, group="data")
    image_size: int = key(
        not_negative(0), "side in pixels at which networks see the images; 0: their own, ImageFolder's 32", group="data"
    )
    resize: int = key(
        not_negative(0),
        "short side in pixels before the centre is cropped; 0: the aspect is not kept; ImageNet: image_size / 0.875",
        resized,
        group="data",
    )
    interpolation: str = key(
        one_of("", "bilinear", "bicubic"),
        "interpolation when images are resized; empty: the dataset's default",
        resized,
        group="data",
    )
    channels: int = key(
        limited(0, "be 0, 1 or 3", lambda count: count in (0, 1, 3)),
        "channels of ImageFolder's images: 1 (grey) or 3 (colour); 0: 3",
        only("dataset", *FOLDERS),
        group="data",
    )
    skip_damaged: bool = key(
        False, "leave out and count damaged pictures of folders", only("dataset", *FOLDERS, *BOXED), group="data"
    )
    loading: str = key(
        one_of("auto", "memory", "stream"),
        "memory: all images lie on every device; stream: they are read batch by batch; auto: stream above 4 GB",
        free=True,
        group="data",
    )
    loading_threads: int = key(
        not_negative(0), "threads that read streamed images; 0: one for each core", streamed, free=True, group="run"
    )
    check_files: bool = key(
        False, "the fingerprint of the data reads every file, not only names and sizes", has_files, group="data"
    )
    num_labels: int = key(
        not_negative(0), "number of images with a label, class-balanced; 0: all images", classified, group="data"
    )
    val_split: float = key(
        between(0, 1, 0.0, with_high=False),
        "share of each class's training images to choose best/ on; 0: the data's own validation split, or the test",
        group="data",
    )
    sampling: str = key(
        one_of("uniform", "balanced"),
        "uniform: an epoch is one pass; balanced: all classes equally often, for long tails",
        classified,
        only("num_labels", 0),
    )
    class_weights: str = key(
        one_of("none", "balanced"),
        "weights of the label loss; balanced: inversely proportional to the counts of the classes, mean 1",
        classified,
        only("num_labels", 0),
    )
    label_smoothing: float = key(
        between(0, 1, 0.0), "share of a label that is spread evenly over all classes in the label loss; 0: none"
    )
    crop_pad: int = key(
        limited(-1, "be -1 or more", lambda pad: pad >= -1),
        "padding of the random crop, in pixels; -1: the dataset's default",
        whole_crop,
    )
    crop_mode: str = key(one_of("zero", "reflect"), "values in the padding", whole_crop, padded_crop)
    flip: str = key(one_of("auto", "yes", "no"), "random horizontal flips; auto: the dataset's default")
    resized_crop: float = key(
        between(0, 1, 0.0), "smallest share of the area in a random resized crop, which replaces crop_pad; 0: none"
    )
    randaugment: int = key(not_negative(0), "number of RandAugment's operations for each image; 0: none")
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
    mixup: float = key(not_negative(0.0), "alpha of mixup; 1: uniform shares, 0: no mixup")
    cutmix: float = key(not_negative(0.0), "alpha of CutMix; 0: no CutMix; with mixup, each image gets one of the two")

    # The optimisation: SGD, the CIFAR-100 benchmark's schedule.
    train_epoch: int = key(positive(30), "passes over the training images", group="recipe")
    batch_size: int = key(positive(64), "images per step, over all devices", group="recipe")
    accumulate: int = key(
        positive(1), "number of parts of a batch that go through the networks one after the other, for less memory"
    )
    batch_norm_chips: int = key(
        not_negative(0),
        "number of devices that share the statistics of a batch norm; 0: all devices",
        several_devices,
    )
    optimizer: str = key(
        one_of("sgd", "adamw", "dot", "muon", "lamb"),
        "the optimizer: sgd, adamw or lamb; dot: a momentum for each of two losses; muon: adamw for what is no matrix",
        group="recipe",
    )
    learning_rate: float = key(positive(0.05), "the learning rate at the start", group="recipe")
    ramp_epochs: float = key(not_negative(0.0), "epochs in which the learning rate grows linearly to the schedule's")
    clip_norm: float = key(not_negative(0.0), "largest norm of the gradient; 0: no clipping")
    momentum: float = key(between(0, 1, 0.9, with_high=False), "momentum", only("optimizer", "sgd", "dot"))
    dot_delta: float = key(
        0.075,
        "the label loss's momentum is lower than `momentum` by this, the distillation loss's is higher by this",
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
    seed: int = key(not_negative(0), "the seed of all random numbers", group="recipe")
    seeds: int = key(positive(1), "number of seeds to train side by side, from --seed up", group="recipe")
    stack_seeds: str = key(
        one_of("auto", "yes", "no"), "one program for all seeds; auto: yes on GPU and TPU", several_seeds, free=True
    )
    steps_per_call: str = key(
        limited("auto", "be 'auto' or a whole number above 0", lambda x: x == "auto" or (x.isdecimal() and int(x) > 0)),
        "the largest number of updates in one call; auto: 50 on GPU and TPU, 1 on CPU and for streamed images",
        in_memory,
        free=True,
        group="run",
    )
    on_nan: str = key(
        one_of("stop", "skip"),
        "if a loss or gradient is not finite: stop, or skip the update and count it",
        free=True,
        group="run",
    )
    deterministic: bool = key(False, "repeatable kernels on GPU, which are slower", group="recipe")

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
    checkpoint_seconds: float = key(not_negative(30.0), "shortest time between two checkpoints", free=True, group="run")


KEYS = {field.name: field for field in dataclasses.fields(Keys)}
GROUPS = ("who", "data", "recipe", "run", "more")  # in the order of --help


def get_config() -> ConfigDict:
    """All keys, with the defaults of `train_w_kd.py`."""
    return ConfigDict(dataclasses.asdict(Keys()))
