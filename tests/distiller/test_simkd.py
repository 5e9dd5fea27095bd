"""SimKD: the loss and its refusals. Runs are in tests/training/test_simkd_runs.py."""

import jax.numpy as jnp
import numpy as np
import pytest

import distiller
from models import Outputs

S, T = np.random.RandomState(0).standard_normal((2, 3, 4, 4, 6))
LOGITS = jnp.zeros((3, 2))


def both(student, teacher):
    return Outputs(LOGITS, {"projected": jnp.asarray(student)}), Outputs(LOGITS, {"final": jnp.asarray(teacher)})


def test_it_is_the_mean_squared_error_of_the_maps():
    method = distiller.create("SimKD", weight=2.0)
    loss, _ = method.apply({}, *both(S, T), batch=None)
    np.testing.assert_allclose(loss, 2 * np.mean((S - T) ** 2), rtol=1e-5)
    pooled = S.reshape(3, 2, 2, 2, 2, 6).mean((2, 4))
    small = T[:, :2, :2]
    np.testing.assert_allclose(
        method.apply({}, *both(S, small), None)[0], 2 * np.mean((pooled - small) ** 2), rtol=1e-5
    )


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        (
            {"final": S},
            {"final": T},
            r"student with a projector .*\['final'\]\.\nTake --student_arch Projected .*width=6 ",
        ),
        ({"projected": S}, {"stage4": T}, r"teacher whose embedding is the mean of a map .*\['stage4'\]\.\nTake"),
        ({"projected": S[..., :4]}, {"final": T}, r"has 4 channels, .* 6\.\nGive --config.student_options.width=6"),
    ],
)
def test_other_networks_are_refused_with_the_command(student, teacher, message):
    outputs = [Outputs(LOGITS, {tap: jnp.asarray(x) for tap, x in own.items()}) for own in (student, teacher)]
    with pytest.raises(ValueError, match=message):
        distiller.create("SimKD").apply({}, *outputs, batch=None)
