"""FunMatch on the Oxford-IIIT pets: 37 classes, `tfds:oxford_iiit_pet`, streamed (configs/funmatch.py has the method).

Published on this dataset, by a TensorFlow implementation of the paper, top-1 in percent: teacher BiT-R101x3 90.92;
student BiT-R50x1 81.3 after 300 epochs and 86 after 1000. Here the networks are ResNet101 and ResNet50 with batch norm.
Prepare the dataset, train a teacher from pretrained weights, then the student:

    python train_teacher.py --config configs/funmatch_pet.py --arch ResNet101 --train_path runs/pet/resnet101
    python train_w_kd.py --config configs/funmatch_pet.py --teacher_param runs/pet/resnet101

--train_epoch 1000 is the longer training. Measured here: not yet.
"""

from ml_collections import ConfigDict

from configs import funmatch


def get_config() -> ConfigDict:
    """300 epochs."""
    c = funmatch.get_config()
    c.dataset = "tfds:oxford_iiit_pet"
    c.loading = "stream"
    c.image_size = 224
    c.teacher_arch = "ResNet101"
    c.student_arch = "ResNet50"
    c.train_epoch = 300
    return c
