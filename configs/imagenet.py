"""ImageNet as the distillation benchmark mdistiller trains it: any method, any pair of networks.

100 epochs, batch 512, SGD 0.2 without Nesterov, x0.1 after epochs 30, 60 and 90, weight decay 1e-4 on everything;
random resized crop to 224 and flip in training, 256 and centre crop in the tests, both bilinear. ReviewKD and CRD have
batch 256 and rate 0.1, as in the benchmark. Without an argument the file is the recipe of teachers, and of SoftLogits
for ResNet34,ResNet18:

    python train_teacher.py --config configs/imagenet.py --arch ResNet34 --data_dir DIR --train_path runs/resnet34

The argument is METHOD or METHOD,TEACHER,STUDENT. The benchmark's pairs are ResNet34,ResNet18 and ResNet50,MobileNetV1:

    python train_w_kd.py --config configs/imagenet.py:DKD,ResNet34,ResNet18 --teacher_param runs/resnet34 --data_dir DIR

The teachers of the published numbers are torchvision's: `--teacher_arch torchvision:resnet34 --teacher_param hub`, or
its file through `python -m pretrained.convert`. METHOD may be a sum; `DOT` alone is SoftLogits with the optimizer DOT.
The pictures are streamed (docs/data.md). Large batches: --batch_size 4096 --learning_rate 1.6 --config.ramp_epochs=5
--dtype bfloat16; the rate grows in proportion to the batch.

Published top-1 (`PUBLISHED`), measured here: not yet.
"""

from ml_collections import ConfigDict

from registry import UserError

PAIR = "ResNet34,ResNet18"
SMALL = ("ReviewKD", "CRD")  # methods with batch 256 and rate 0.1
OPTIONS = {  # of a method; under "" for all pairs
    "SoftLogits": {"": {"temperature": 1.0, "weight": 0.5, "ce_weight": 0.5}},
    "DKD": {
        "": {"temperature": 1.0, "warmup_epochs": 1, "beta": 2.0},
        "ResNet34,ResNet18": {"beta": 0.5},
    },
    "ReviewKD": {"": {"weight": 1.0}, "ResNet50,MobileNetV1": {"weight": 8.0}},
}
# Top-1 in percent: of the teacher, of the student on labels alone, and of methods, as their authors report them.
PUBLISHED = {
    "ResNet34,ResNet18": {
        **{"teacher": 73.31, "labels": 69.76, "SoftLogits": 71.03, "AT": 70.70, "CRD": 71.17, "DKD": 71.70},
        **{"ReviewKD": 71.61, "DIST": 72.07, "IKL": 71.91, "WSLD": 72.04},
    },
    "ResNet50,MobileNetV1": {
        **{"teacher": 76.16, "labels": 68.87, "SoftLogits": 70.50, "DKD": 72.05, "ReviewKD": 72.56},
    },
}


def get_config(argument: str = "") -> ConfigDict:
    """Returns the benchmark's setting.

    Args:
        argument: "METHOD" or "METHOD,TEACHER,STUDENT"; empty: SoftLogits. Without a pair, the pair is `PAIR`.

    Raises:
        UserError: an argument of another form. Names are checked where the recipe is used.
    """
    parts, archs = parsed("configs/imagenet.py", argument, PAIR)
    methods = [part for part in parts if part != "DOT"] or ["SoftLogits"]
    c = ConfigDict()
    c.dataset = "ImageNet"
    c.image_size, c.resize, c.interpolation = 224, 256, "bilinear"
    c.resized_crop = 0.08
    c.teacher_arch, c.student_arch = archs
    c.distiller = "+".join(methods)
    options = {method: _options(method, ",".join(archs)) for method in methods}
    c.distiller_options = {k: v for k, v in options.items() if v} if len(methods) > 1 else options[methods[0]]
    small = any(method in SMALL for method in methods)
    c.train_epoch = 100
    c.batch_size, c.learning_rate = (256, 0.1) if small else (512, 0.2)
    c.weight_decay = 1e-4
    c.schedule = "step"
    c.milestones = (0.3, 0.6, 0.9)
    c.decay_factor = 0.1
    if "DOT" in parts:
        c.optimizer = "dot"
        c.dot_delta = 0.09
    return c


def _options(method: str, pair: str) -> dict:
    found = OPTIONS.get(method, {})
    return {**found.get("", {}), **found.get(pair, {})}


def parsed(file: str, argument: str, pair: str) -> tuple[list[str], list[str]]:
    """Returns (the parts of METHOD, [TEACHER, STUDENT]) of a recipe's argument; `pair` where it names none.

    Raises:
        UserError: an argument of another form.
    """
    method, *archs = [part.strip() for part in (argument or "SoftLogits").split(",")]
    archs = archs or pair.split(",")
    if not method or len(archs) != 2 or not all(archs):
        raise UserError(
            f"The argument of {file} is METHOD or METHOD,TEACHER,STUDENT; got '{argument}'.\n"
            f"Example: --config {file}:DKD,{pair}"
        )
    return [part.strip() for part in method.split("+")], archs
