"""Class activation maps: a weighted sum of the channels of a feature map, with weights for the target class.

A: the feature map. w: the weights of the classifier. y_k: the logit of the target class. relu(...) is left out with
`relu=False`.

    CAM        relu(sum_c w_kc A_c / HW)                       for the A whose mean over positions is the embedding
    GradCAM    relu(sum_c A_c mean_hw dy_k/dA_c)
    GradCAM++  relu(sum_c A_c sum_hw a_c g_c),                 a_c = 1 / (2 + g_c sum_hw A_c),   g_c = relu(dy_k/dA_c)
    LayerCAM   relu(sum_c A_c relu(dy_k/dA_c)),                position by position

Papers: Zhou et al. Learning Deep Features for Discriminative Localization. CVPR 2016. arXiv:1512.04150. Selvaraju et
al. Grad-CAM: Visual Explanations from Deep Networks via Gradient-Based Localization. ICCV 2017. arXiv:1610.02391.
Chattopadhay et al. Grad-CAM++: Generalized Gradient-Based Visual Explanations for Deep Convolutional Networks. WACV
2018. arXiv:1710.11063. Jiang et al. LayerCAM: Exploring Hierarchical Class Activation Maps for Localization. IEEE TIP
2021.

Deviations: the paper of CAM has neither the division nor the ReLU. Divided by the number of positions HW, CAM is the
contribution of each position to the logit: without the ReLU, the map sums to the logit minus its bias, and GradCAM of
the same A equals CAM. GradCAM++ is the paper's closed form for exp(y), without the factor exp(y), which is one number
for each image. GradCAM++ replaces a negative sum_hw A_c by 0; after a ReLU this sum is never negative.
"""

import dataclasses

import jax
import jax.numpy as jnp

from explain.base import Explanation, feature_and_gradient, wide
from models import LAST_MAP, Outputs


def class_maps(outputs: Outputs) -> jax.Array:
    """Return w_k . A(h, w): the contribution of each position of the last map to each class, times HW.

    Args:
        outputs: of a network with a tap `final` whose mean over positions is the tap `embedding`.

    Returns:
        [B, h, w, K], float32 or float64. The mean over positions equals the logits minus their bias.

    Raises:
        ValueError: the network has no tap `final`.
    """
    if "final" not in outputs.features:
        raise ValueError(
            "Class activation maps need a tap `final`, the map whose mean is the embedding; "
            f"this network has {sorted(outputs.features)}.\nRecord the tap in the network, or take the map GradCAM (to "
            "draw and measure) or the distiller ExplanationMatch (to train)."
        )
    final = wide(outputs.features["final"])
    scores = outputs.classify(final.reshape(-1, final.shape[-1]))
    scores = scores - outputs.classify(jnp.zeros((1, final.shape[-1]), final.dtype))  # the classifier's bias
    return scores.reshape(*final.shape[:3], -1)


def grad_cam(feature: jax.Array, gradient: jax.Array) -> jax.Array:
    """Return GradCAM before its ReLU.

    Args:
        feature: [B, h, w, C].
        gradient: the gradient of a logit at the feature, [B, h, w, C].

    Returns:
        [B, h, w].
    """
    return jnp.sum(feature * jnp.mean(gradient, axis=(1, 2), keepdims=True), axis=-1)


def grad_cam_plus_plus(feature: jax.Array, gradient: jax.Array) -> jax.Array:
    """Return GradCAM++ before its last ReLU; arguments and result as for `grad_cam`."""
    gradient, total = jax.nn.relu(gradient), jax.nn.relu(jnp.sum(feature, axis=(1, 2), keepdims=True))
    weight = jnp.sum(gradient / (2 + gradient * total), axis=(1, 2), keepdims=True)
    return jnp.sum(feature * weight, axis=-1)


def layer_cam(feature: jax.Array, gradient: jax.Array) -> jax.Array:
    """Return LayerCAM before its last ReLU; arguments and result as for `grad_cam`."""
    return jnp.sum(feature * jax.nn.relu(gradient), axis=-1)


@dataclasses.dataclass(frozen=True)
class CAM(Explanation):
    """Class activation map: the last feature map, its channels weighted by the classifier's weights of the class.

    Paper: Zhou et al., CVPR 2016, arXiv:1512.04150

    Attributes:
        relu: True keeps evidence for the class only; False keeps evidence against the class as negative numbers.
    """

    relu: bool = True

    def of(self, outputs, target):
        maps = class_maps(outputs)
        chosen = jnp.take_along_axis(maps, target[:, None, None, None], axis=-1)[..., 0]
        chosen = chosen / (maps.shape[1] * maps.shape[2])
        return jax.nn.relu(chosen) if self.relu else chosen


@dataclasses.dataclass(frozen=True)
class _GradientCAM(Explanation):
    """A class activation map whose weights are gradients.

    Attributes:
        tap: the name of a feature; "" is the last stage, or, in a transformer, the last stage whose patches still
            reach the classifier.
        relu: True keeps evidence for the class only.
    """

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
    """The feature map, each channel weighted by the mean of its gradient.

    Paper: Selvaraju et al., ICCV 2017, arXiv:1610.02391
    """

    rule = staticmethod(grad_cam)


@dataclasses.dataclass(frozen=True)
class GradCAMPlusPlus(_GradientCAM):
    """The feature map, each channel weighted by its positive gradients: small regions count like large ones.

    Paper: Chattopadhay et al., WACV 2018, arXiv:1710.11063
    """

    rule = staticmethod(grad_cam_plus_plus)


@dataclasses.dataclass(frozen=True)
class LayerCAM(_GradientCAM):
    """The feature map, each position weighted by its own positive gradient: sharp also at early stages.

    Paper: Jiang et al., IEEE TIP 2021
    """

    rule = staticmethod(layer_cam)
