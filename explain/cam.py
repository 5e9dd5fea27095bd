"""Class activation maps: the last map's channels, weighted by what they mean for a class.

    CAM        relu(sum_c w_kc A_c / HW)                       A: the map whose mean is the embedding, w: the classifier
    GradCAM    relu(sum_c A_c mean_hw dy_k/dA_c)
    GradCAM++  relu(sum_c A_c sum_hw a_c g_c),                 a_c = 1 / (2 + g_c sum_hw A_c),   g_c = relu(dy_k/dA_c)
    LayerCAM   relu(sum_c A_c relu(dy_k/dA_c)),                position by position

Papers: Zhou et al. Learning Deep Features for Discriminative Localization. CVPR 2016. arXiv:1512.04150. Selvaraju et
al. Grad-CAM: Visual Explanations from Deep Networks via Gradient-Based Localization. ICCV 2017. arXiv:1610.02391.
Chattopadhay et al. Grad-CAM++: Generalized Gradient-Based Visual Explanations for Deep Convolutional Networks. WACV
2018. arXiv:1710.11063. Jiang et al. LayerCAM: Exploring Hierarchical Class Activation Maps for Localization. IEEE TIP
2021.

CAM's paper divides by nothing and has no ReLU. Divided by the number of positions it is each position's share of the
logit: without the ReLU (`relu=False`) the map sums to the logit less its bias, and GradCAM on the same map of the same
network is equal to it. GradCAM++ is the closed form for exp(y), without the factor exp(y), which is one number an
image; a sum of activations below 0, which no map after a ReLU has, counts as 0.
"""

import dataclasses

import jax
import jax.numpy as jnp

from explain.base import Explanation, feature_and_gradient, wide
from models import LAST_MAP, Outputs


def class_maps(outputs: Outputs) -> jax.Array:
    """What each position of the last map says for each class: w_k . A(h, w).

    Args:
        outputs: of a network whose `embedding` is the mean over positions of its tap `final`.

    Returns:
        [B, h, w, K], `wide`; the mean over positions is the logits less their bias.

    Raises:
        ValueError: the network has no such tap.
    """
    if "final" not in outputs.features:
        raise ValueError(
            "Class activation maps need a tap `final`, the map whose mean is the embedding; "
            f"this network has {sorted(outputs.features)}.\nTake GradCAM, or record the tap in the network."
        )
    final = wide(outputs.features["final"])
    scores = outputs.classify(final.reshape(-1, final.shape[-1]))
    scores = scores - outputs.classify(jnp.zeros((1, final.shape[-1]), final.dtype))  # the classifier's bias
    return scores.reshape(*final.shape[:3], -1)


def grad_cam(feature: jax.Array, gradient: jax.Array) -> jax.Array:
    """GradCAM before its ReLU: [B, h, w] of a feature map and the gradient of a logit there, [B, h, w, C] each."""
    return jnp.sum(feature * jnp.mean(gradient, axis=(1, 2), keepdims=True), axis=-1)


def grad_cam_plus_plus(feature: jax.Array, gradient: jax.Array) -> jax.Array:
    """GradCAM++ before its last ReLU, arguments and result as in `grad_cam`."""
    gradient, total = jax.nn.relu(gradient), jax.nn.relu(jnp.sum(feature, axis=(1, 2), keepdims=True))
    weight = jnp.sum(gradient / (2 + gradient * total), axis=(1, 2), keepdims=True)
    return jnp.sum(feature * weight, axis=-1)


def layer_cam(feature: jax.Array, gradient: jax.Array) -> jax.Array:
    """LayerCAM before its last ReLU, arguments and result as in `grad_cam`."""
    return jnp.sum(feature * jax.nn.relu(gradient), axis=-1)


@dataclasses.dataclass(frozen=True)
class CAM(Explanation):
    """Class activation map: the classifier's weights on the map that is pooled before it.

    Paper: Zhou et al., CVPR 2016, arXiv:1512.04150

    Attributes:
        relu: keep evidence for the class only; False keeps evidence against it as negative numbers.
    """

    relu: bool = True

    def of(self, outputs, target):
        maps = class_maps(outputs)
        chosen = jnp.take_along_axis(maps, target[:, None, None, None], axis=-1)[..., 0]
        chosen = chosen / (maps.shape[1] * maps.shape[2])
        return jax.nn.relu(chosen) if self.relu else chosen


@dataclasses.dataclass(frozen=True)
class _GradientCAM(Explanation):
    """What the CAMs by gradients share: a tap and a ReLU."""

    tap: str = ""
    relu: bool = True

    @property
    def gradient_taps(self):
        return (self.tap or LAST_MAP,)

    def of(self, outputs, target):
        found = self.rule(*feature_and_gradient(outputs, target, self.tap))
        return jax.nn.relu(found) if self.relu else found


@dataclasses.dataclass(frozen=True)
class GradCAM(_GradientCAM):
    """Channels weighted by the mean of their gradients.

    Paper: Selvaraju et al., ICCV 2017, arXiv:1610.02391

    Attributes:
        tap: a feature's name; "" is the last stage, of a transformer the last one whose patches are read.
        relu: keep evidence for the class only.
    """

    rule = staticmethod(grad_cam)


@dataclasses.dataclass(frozen=True)
class GradCAMPlusPlus(_GradientCAM):
    """Channels weighted by their positive gradients, so that small regions count like large ones.

    Paper: Chattopadhay et al., WACV 2018, arXiv:1710.11063

    Attributes:
        tap: a feature's name; "" is the last stage, of a transformer the last one whose patches are read.
        relu: keep evidence for the class only.
    """

    rule = staticmethod(grad_cam_plus_plus)


@dataclasses.dataclass(frozen=True)
class LayerCAM(_GradientCAM):
    """Each position weighted by its own positive gradients: sharp also at early stages.

    Paper: Jiang et al., IEEE TIP 2021

    Attributes:
        tap: a feature's name; "" is the last stage, of a transformer the last one whose patches are read.
        relu: keep evidence for the class only.
    """

    rule = staticmethod(layer_cam)
