import jax.numpy as jnp
import numpy as np
import pytest

from distiller.logits import squared_error


def test_it_is_the_mean_of_all_squared_differences():
    student, teacher = np.random.RandomState(0).standard_normal((2, 4, 3))
    found = squared_error(jnp.float32(student), jnp.float32(teacher))
    np.testing.assert_allclose(found, ((student - teacher) ** 2).mean(), rtol=1e-6)


def test_other_shapes_are_named():
    with pytest.raises(ValueError, match=r"\(7, 5\).*\(7, 6\)"):
        squared_error(jnp.zeros((7, 5)), jnp.zeros((7, 6)))
