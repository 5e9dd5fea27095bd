"""Several teachers as one: averages of their logits or probabilities, with weights that may differ by image.

    "logits":         z_b = sum_i w_bi z_bi
    "probabilities":  z_b = T log sum_i w_bi softmax(z_bi / T),   so softmax(z_b / T) is the mean of the probabilities
    "equal":          w_bi = 1 / n, or `teacher_weights` divided by their sum
    "confidence":     w_bi = (1 - softmax_i(e_bi)) / (n - 1),   e_bi the label loss of teacher i; equal without a label
    "agreement":      the same with e_bi = KL(softmax(z_bi) || mean_j softmax(z_bj))

Papers: You, Xu, Xu, Tao. Learning from Multiple Teacher Networks. KDD 2017: the mean of the softened probabilities.
"confidence": Zhang, Chen, Wang. Confidence-Aware Multi-Teacher Knowledge Distillation (CA-MKD). ICASSP 2022.
arXiv:2201.00007. "agreement" is this library's: the same weights, with an error that needs no label.

T is the method's `temperature`, or 1 if the method has none. CA-MKD's sum over teachers of w_bi KL(t_i || s) has the
gradient of KL(sum_i w_bi t_i || s), which is SoftLogits with "probabilities" and "confidence". The authors' code also
divides by n. The paper's weighted features are not implemented. Two teachers are about equally far from their mean, so
"agreement" says little with fewer than three.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from distiller.base import wide
from models import NoFeatures, Outputs
from registry import UserError

COMBINED = ("logits", "probabilities")


def confidence_weights(errors: jax.Array) -> jax.Array:
    """CA-MKD's weights: (1 - softmax over the teachers) / (n - 1).

    Args:
        errors: [n, B], n at least 2; the larger, the smaller the weight.

    Returns:
        [n, B], at most 1 / (n - 1); columns sum to 1, and are equal where the errors are.
    """
    return (1 - jax.nn.softmax(errors, axis=0)) / (len(errors) - 1)


def disagreement(logits: jax.Array) -> jax.Array:
    """KL(p_i || mean_j p_j) in nats: [n, B, K] -> [n, B]."""
    logs = jax.nn.log_softmax(logits)
    mean = jax.nn.logsumexp(logs, axis=0) - jnp.log(float(len(logits)))
    return jnp.sum(jnp.exp(logs) * (logs - mean), axis=-1)


def mean_logits(logits: jax.Array, weights: jax.Array) -> jax.Array:
    """Weighted mean: logits [n, B, K] and weights [n, B], whose columns sum to 1 -> [B, K]."""
    return jnp.sum(weights[..., None] * logits, axis=0)


def mean_probabilities(logits: jax.Array, weights: jax.Array, temperature: float) -> jax.Array:
    """The logits whose probabilities, softened by `temperature`, are the weighted mean of the teachers'.

    Args:
        logits: [n, B, K].
        weights: [n, B]; columns sum to 1.
        temperature: T, dimensionless.

    Returns:
        [B, K]; finite.
    """
    return temperature * jax.nn.logsumexp(jax.nn.log_softmax(logits / temperature), axis=0, b=weights[..., None])


def method_temperature(method: nn.Module) -> float:
    """Returns the `temperature` of a method, or of the parts of a sum; 1 if none has one.

    Raises:
        UserError: the parts have different temperatures.
    """
    parts = getattr(method, "parts", (method,))
    found = {type(part).__name__: getattr(part, "temperature", None) for part in parts}
    found = {name: float(value) for name, value in found.items() if isinstance(value, (int, float))}
    if len(set(found.values())) > 1:
        raise UserError(
            f"combine='probabilities' averages at the method's temperature, but these differ: {found}.\n"
            "Give the parts one temperature, or use combine='logits'."
        )
    return next(iter(found.values()), 1.0)


def check(combine: str, weighting: str, fixed: tuple[float, ...], several: bool, method: nn.Module, task) -> None:
    """Checks Offline's options for several teachers.

    Args:
        combine, weighting: the options.
        fixed: the option `teacher_weights`.
        several: whether there are several teachers.
        method: the method that reads the combined teacher.
        task: says whether the data have labels.

    Raises:
        UserError: options that do not fit one another, the teachers or the method.
    """
    if combine in COMBINED and not several:
        raise UserError(f"'combine' '{combine}' averages several teachers, but there is only one. Leave it out.")
    if weighting != "equal" and combine not in COMBINED:
        raise UserError(
            f"weighting='{weighting}' weighs the teachers image by image, which a sum of losses cannot do.\n"
            "Use combine='probabilities' or combine='logits'."
        )
    if weighting != "equal" and fixed:
        raise UserError(f"'teacher_weights' {fixed} and weighting='{weighting}' exclude each other. Leave one out.")
    if weighting == "confidence" and not task.labelled:
        raise UserError(
            "weighting='confidence' reads the labels, and the data have none.\nUse weighting='agreement' or 'equal'."
        )
    if combine in COMBINED and method.gradient_taps:
        raise UserError(
            f"{type(method).__name__} needs the teachers' gradients, but combine='{combine}' has only their average "
            "logits. Use combine='losses'."
        )
    if combine == "probabilities":
        method_temperature(method)


def combined(
    teachers: list[Outputs], fixed: list[float], batch, task, method: nn.Module, combine: str, weighting: str
) -> Outputs:
    """Combines the teachers' logits, in each view by itself.

    Args:
        teachers: the teachers' outputs; all have the same views.
        fixed: a weight for each teacher, used with the weighting "equal".
        batch: has the labels.
        task: gives the label loss of each row.
        method: its temperature is that of "probabilities".
        combine: "logits" or "probabilities".
        weighting: "equal", "confidence" or "agreement".

    Returns:
        Outputs with logits alone.
    """

    def one(views: list[Outputs]) -> Outputs:
        logits = jnp.stack([wide(view.logits) for view in views])
        if weighting == "equal":
            weights = jnp.asarray([weight / sum(fixed) for weight in fixed], logits.dtype)
            weights = jnp.broadcast_to(weights[:, None], logits.shape[:2])
        else:
            confident = weighting == "confidence"
            weights = confidence_weights(task.loss_rows(logits, batch) if confident else disagreement(logits))
        if combine == "logits":
            found = mean_logits(logits, weights)
        else:
            found = mean_probabilities(logits, weights, method_temperature(method))
        return Outputs(logits=found, features=NoFeatures())

    further = zip(*(teacher.views for teacher in teachers), strict=True)
    return one(teachers).replace(views=tuple(one(list(views)) for views in further))
