"""DeiT: a small ViT on ImageNet, with strong augmentation and the classes that a convolutional teacher predicts.

Paper: Touvron, Cord, Douze, Massa, Sablayrolles, Jégou. Training Data-efficient Image Transformers & Distillation
through Attention. ICML 2021. arXiv:2012.12877.

The paper's setting (section 5, and the released code where the paper is silent): RandAugment (2 operations, magnitude
9), mixup 0.8, CutMix 1, random erasing in a quarter of the images, stochastic depth 0.1, label smoothing 0.1 for the
labels and none for the teacher's classes, hard distillation with both weights 1/2, AdamW with decay 0.05 on kernels,
300 epochs, cosine after 5 epochs of ramp. The learning rate is 0.0005 * batch / 512, so 0.001 for a batch of 1024; a
smaller `--batch_size` needs a smaller rate. Deviations:
- The paper repeats each image three times in a batch (repeated augmentation). This library has no such order.
- RandAugment's magnitude is 9 for every image; the paper's varies with deviation 0.5.
- The learning rate falls to 0; the code's to 1e-5.
- Random erasing paints the mean colour; the code's paints noise.
- The paper's teacher is RegNetY-16GF (82.9). Here the teacher is any convolutional network, by default ResNet-50. The
  paper found convolutional teachers better than transformers of the same accuracy.
Published top-1 (README of the released code): DeiT-Ti 74.5, DeiT-S 81.2, DeiT-B 83.4; without a teacher 72.2, 79.9,
81.8. `--student_arch ViT_S` is DeiT-S. The code also keeps an average of the weights: `--ema_weights 0.99996`.

    python -m pretrained.convert resnet50.pth --arch ResNet50 --num_classes 1000 --dataset ImageNet --out runs/resnet50
    python train_w_kd.py --config configs/deit.py --teacher_param runs/resnet50 --data_dir DIR

Other data work, too: `--dataset CIFAR100 --teacher_arch ResNet56 --teacher_param runs/teacher`. A ViT divides 32x32
pixels into patches of 4x4.

Measured here: not yet.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """300 epochs."""
    c = ConfigDict()
    c.dataset = "ImageNet"
    c.teacher_arch = "ResNet50"
    c.student_arch = "ViT_Ti"
    c.student_options = {"distilled": True, "stochastic_depth": 0.1}
    c.distiller = "DeiT"
    c.distiller_options = {"hard": True, "weight": 0.5, "ce_weight": 0.5}
    c.train_epoch = 300
    c.batch_size = 1024
    c.optimizer = "adamw"
    c.learning_rate = 0.001
    c.ramp_epochs = 5.0
    c.weight_decay = 0.05
    c.decay_kernels_only = True
    c.schedule = "cosine"
    c.resized_crop = 0.08
    c.randaugment = 2
    c.magnitude = 9
    c.random_erasing = 0.25
    c.mixup = 0.8
    c.cutmix = 1.0
    c.label_smoothing = 0.1
    return c
