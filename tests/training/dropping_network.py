"""A network of somebody's own, with Flax's layers: batch norm and dropout."""

import flax.linen as nn


class Dropping(nn.Module):
    """Two dense layers with half of the numbers between them dropped in training."""

    num_classes: int
    dtype: type = "float32"

    @nn.compact
    def __call__(self, images, train=False):
        x = nn.Dense(12)(images.reshape(images.shape[0], -1))
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))
        return nn.Dense(self.num_classes)(nn.Dropout(0.5, deterministic=not train)(x))
