"""How networks look at images of another size: as Pillow resizes them, and inside the program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import models
from data import picture
from models import Player, View

IMAGE = np.random.RandomState(0).randint(70, 186, (2, 24, 24, 3)).astype(np.uint8)


def pillow(size, resize, interpolation):
    form = picture.Form(size, 3, resize, interpolation)
    return np.stack([np.asarray(form.fitted(Image.fromarray(x))) for x in IMAGE])


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("size", "resize"), [(56, 0), (10, 0), (24, 30), (40, 48), (8, 12)])
def test_images_are_resized_as_pillow_does(size, resize, interpolation):
    """Pillow rounds twice, after each axis: that is a level of 255 apart."""
    seen = jax.jit(View(size, resize, interpolation))(IMAGE.astype(np.float32) / 255)
    difference = np.abs(255 * np.asarray(seen) - pillow(size, resize, interpolation))
    assert difference.max() <= 1.5
    assert difference.mean() < 0.5


@pytest.mark.slow
def test_bicubic_does_not_leave_the_range_of_pixels():
    """An edge from black to white overshoots."""
    edge = jnp.concatenate([jnp.zeros((1, 8, 4, 1)), jnp.ones((1, 8, 4, 1))], axis=2)
    seen = View(24, 0, "bicubic")(edge)
    assert (float(seen.min()), float(seen.max())) == (0, 1)
    assert ((seen > 0) & (seen < 1)).any()


def test_images_that_have_the_size_are_not_touched():
    image = jnp.asarray(IMAGE, jnp.float32)
    for view in (View(), View(24), View(24, 24)):
        assert view(image) is image
        assert not view.changes(image.shape)
    assert View(24, 30).changes(image.shape)
    assert View(24).changes((24, 30, 3))


def test_shapes_are_what_is_seen():
    assert View().shape((32, 32, 3)) == (32, 32, 3)
    assert View(8).shape((32, 32, 3)) == (8, 8, 3)
    assert View(8).shape((5, 32, 32, 3)) == (5, 8, 8, 3)


@pytest.mark.slow
def test_a_map_comes_back_to_where_the_network_looked():
    """Of the centre 16 of 32 pixels: the maximum is at the same place, and what is not looked at is 0."""
    view = View(16, 32)
    image = np.zeros((1, 32, 32, 1), np.float32)
    image[0, 12, 20] = 1
    maps = view.back(view(jnp.asarray(image))[..., 0], (32, 32))
    np.testing.assert_allclose(maps[0], image[0, ..., 0], atol=1e-6)
    twice = View(64)
    maps = np.asarray(twice.back(twice(jnp.asarray(image))[..., 0], (32, 32)))[0]
    assert np.unravel_index(maps.argmax(), maps.shape) == (12, 20)


def test_a_player_resizes_before_it_normalises(tiny):
    image = np.random.RandomState(3).uniform(size=(2, 8, 8, 1)).astype(np.float32)
    player = Player("teacher", tiny.model, (0.3,), (0.2,), image_size=16, interpolation="bicubic")
    plain = Player("teacher", tiny.model, (0.3,), (0.2,))
    ask = jax.jit(lambda player, image: player.forward(tiny.variables, image)[0], static_argnums=0)
    outputs = ask(player, image)
    assert outputs.source.images.shape == (2, 16, 16, 1)
    np.testing.assert_array_equal(outputs.logits, ask(plain, View(16, 0, "bicubic")(jnp.asarray(image))).logits)


def test_a_player_draws_weights_for_what_it_sees():
    model = models.create("ViT_Ti", 3, patch_size=4)
    player = Player("student", model, (0.5,) * 3, (0.2,) * 3, image_size=16)
    found = jax.eval_shape(player.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32))
    other = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32))
    assert jax.tree.map(jnp.shape, found["params"]) == jax.tree.map(jnp.shape, other["params"])
