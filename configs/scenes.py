"""Scenes: RetinaNet on small drawings, the quickest setting for detection.

    python train_teacher.py --config configs/scenes.py --train_path runs/scenes/teacher
    python train_w_kd.py --config configs/scenes.py:0.25 --teacher_param runs/scenes/teacher --distiller FGD

The argument is the width of the network, as a share of ResNet-18's; the pyramid has 128 channels times the width. The
heads have one convolution before their last one: with four, new heads learn the classes of these drawings far slower.
"""

from ml_collections import ConfigDict

from registry import UserError


def get_config(width: str = "0.5") -> ConfigDict:
    """30 epochs of 150 updates of 16 images.

    Args:
        width: from 1/128 to 4, such as "0.25".
    """
    try:
        share = float(width)
    except ValueError:
        share = 0.0
    if not 1 / 128 <= share <= 4:
        raise UserError(f"configs/scenes.py takes a width from 1/128 to 4, such as 0.25; got '{width}'.")
    c = ConfigDict()
    c.dataset = "Scenes"
    c.student_arch = "RetinaNet_ResNet18"
    c.student_options = {"width": share, "fpn_channels": round(128 * share), "anchor_size": 8, "head_convs": 1}
    c.crop_pad = 8
    c.batch_size = 16
    c.optimizer = "adamw"
    c.learning_rate = 0.001
    c.weight_decay = 1e-4
    c.schedule = "cosine"
    c.clip_norm = 1.0
    c.train_epoch = 30
    c.eval_every = 5
    return c
