"""Tiny-ImageNet as the distillation benchmark mdistiller trains it: any method, any pair of networks.

200 epochs, batch 256, SGD 0.2 without Nesterov, x0.1 after epochs 60, 120 and 160, weight decay 5e-4 on everything, at
64x64 pixels. The ResNets have the stem of small images, and MobileNetV2 is the benchmark's network for this size
(models/mobilenet.py). The teacher's recipe has the network alone as its argument:

    python train_teacher.py --config configs/tiny_imagenet.py:ResNet18 --data_dir DIR --train_path runs/tiny/resnet18

The argument of a student's recipe is METHOD or METHOD,TEACHER,STUDENT; DOT alone is SoftLogits with the optimizer DOT:

    python train_w_kd.py --config configs/tiny_imagenet.py:DOT,ResNet18,MobileNetV2 --teacher_param runs/tiny/resnet18 \
        --data_dir DIR

One deviation: the benchmark turns the images by up to 20 degrees and does not crop them. Here they are padded by 8
pixels, cropped and flipped.

Published top-1 (`PUBLISHED`, mdistiller's README), measured here: not yet.
"""

from ml_collections import ConfigDict

from configs.imagenet import parsed

PAIR = "ResNet18,MobileNetV2"
STEMS = {"MobileNetV2": "tiny", **{f"ResNet{depth}": "cifar" for depth in (18, 34, 50, 101)}}
PUBLISHED = {  # top-1 in percent: of SoftLogits, and of SoftLogits with DOT
    "ResNet18,MobileNetV2": {"SoftLogits": 58.35, "DOT": 64.01},
    "ResNet18,ShuffleNetV2": {"SoftLogits": 62.26, "DOT": 65.75},
}


def get_config(argument: str = "") -> ConfigDict:
    """Returns the benchmark's setting.

    Args:
        argument: "METHOD" or "METHOD,TEACHER,STUDENT"; empty: SoftLogits. Without a pair, the pair is `PAIR`. Or the
            name of one of `STEMS`: the recipe that trains this network on labels.

    Raises:
        UserError: an argument of another form. Names are checked where the recipe is used.
    """
    c = ConfigDict()
    c.dataset = "TinyImageNet"
    if argument in STEMS:
        c.teacher_arch = c.student_arch = argument  # train_teacher.py trains the recipe's teacher
    else:
        parts, (c.teacher_arch, c.student_arch) = parsed("configs/tiny_imagenet.py", argument, PAIR)
        c.distiller = "+".join([part for part in parts if part != "DOT"] or ["SoftLogits"])
        if "DOT" in parts:
            c.optimizer = "dot"
            c.dot_delta = 0.075
    if c.student_arch in STEMS:
        c.student_options = {"stem": STEMS[c.student_arch]}
    c.train_epoch = 200
    c.batch_size = 256
    c.learning_rate = 0.2
    c.weight_decay = 5e-4
    c.schedule = "step"
    c.milestones = (0.3, 0.6, 0.8)
    c.decay_factor = 0.1
    return c
