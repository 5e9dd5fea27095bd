"""What a dataset for detection excludes: keys, strategies and methods that read a class for each image."""

from distiller import Distiller
from registry import UserError

STRATEGIES = ("Labels", "Offline", "Online", "EMA")  # compare networks by the task and the method alone
# Keys that have to keep their defaults -> why. Not here: keys that count images by their class (configs/conditions.py),
# and sizes of images, which the data refuse.
KEPT = {
    "label_smoothing": "spreads the label of an image over the classes",
    "mixup": "mixes the labels of two images",
    "cutmix": "mixes the labels of two images",
    "randaugment": "rotates and shears images without their boxes",
    "trivialaugment": "rotates and shears images without their boxes",
    "teacher_views": "stores one row of logits for each image",
    "teacher_logits": "has one row of logits for each image",
    "teacher_image_size": "shows the teacher an image in which the boxes lie elsewhere",
    "init_head": "takes over a classifier of images",
}


def check(config: dict, defaults: dict, method: Distiller | None) -> None:
    """Raises `UserError` for a recipe that detection cannot follow.

    Args:
        config: of a dataset for detection.
        defaults: the keys' defaults.
        method: the method; None for a strategy that takes none.
    """
    name = config["dataset"]
    for key, why in KEPT.items():
        if config[key] != defaults[key]:
            raise UserError(f"{name} has boxes, and '{key}' {config[key]} {why}.\nLeave it out.")
    if config["crop_mode"] == "reflect" and config["crop_pad"]:
        raise UserError(f"{name} has boxes, and a reflected border shows objects without boxes.\nTake crop_mode zero.")
    if config["transfer"] not in STRATEGIES:
        raise UserError(
            f"{name} has boxes, and --transfer {config['transfer']} compares one row of logits for each image.\n"
            f"Take one of {', '.join(STRATEGIES)}."
        )
    if method is not None and len(method.views) > 1:
        raise UserError(
            f"{name} has boxes, and --distiller {config['distiller']} compares several views of an image, in which the "
            "boxes lie elsewhere.\nTake a method with one view (docs/detection.md)."
        )
