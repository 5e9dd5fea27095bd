"""The random numbers of a network in a role."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.errors import InvalidRngError

import models
from models import Player


class Dropping(nn.Module):
    """Bare logits: ones, of which training drops half."""

    num_classes: int = 64

    @nn.compact
    def __call__(self, images, train=False):
        shift = self.param("shift", nn.initializers.ones, (self.num_classes,))
        x = jnp.broadcast_to(shift, (images.shape[0], self.num_classes))
        return nn.Dropout(0.5, deterministic=not train)(x)


PLAYERS = [Player(name, Dropping(), (0.0,), (1.0,)) for name in ("student", "peer1")]


def drawn(player, batch, views=1, train=True):
    """The logits of each view."""
    variables = player.init(jax.random.key(0), batch.image)
    outputs, _ = jax.jit(lambda b: player.look(variables, b, views, train=train))(batch)
    return [np.asarray(o.logits) for o in (outputs, *outputs.views)]


@pytest.mark.slow
def test_each_update_player_and_view_draws_anew_and_the_same_one_the_same(batch):
    batch = batch.replace(key=jax.random.key(3), views=(batch.image,))
    first, second = drawn(PLAYERS[0], batch, 2)
    other = drawn(PLAYERS[1], batch)[0]
    later = drawn(PLAYERS[0], batch.replace(key=jax.random.key(4)))[0]
    for found in (second, other, later):
        assert set(np.unique(found)) == {0, 2}
        assert 0.3 < (found == first).mean() < 0.7
    np.testing.assert_array_equal(drawn(PLAYERS[0], batch)[0], first)
    np.testing.assert_array_equal(drawn(PLAYERS[0], batch, train=False)[0], 1)


def test_a_batch_without_a_key_serves_networks_that_draw_nothing(batch):
    with pytest.raises(InvalidRngError, match="dropout"):
        drawn(PLAYERS[0], batch)
    drawn(PLAYERS[0], batch, train=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ResNet8", "CNN"])
def test_the_program_of_a_network_that_draws_nothing_does_not_know_the_key(name, batch):
    player = Player("student", models.create(name, 10), (0.5,), (0.25,))
    variables = jax.eval_shape(player.init, jax.random.key(0), batch.image)

    def text(batch):
        def look(variables, image, label, key):
            seen = batch.replace(image=image, label=label, key=key)
            return player.look(variables, seen, train=True)[0].logits

        return jax.jit(look).lower(variables, batch.image, batch.label, batch.key).as_text()

    assert text(batch.replace(key=jax.random.key(0))).count("key") == 0
    assert text(batch.replace(key=jax.random.key(0))) == text(batch)
