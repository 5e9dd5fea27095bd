"""ViTKD: the mask covers the same number of tokens in each image, and the loss is NumPy's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from smooth_network import keys, make_batch

import distiller
import models
from distiller.vitkd import Generator, layer_normalised, token_mask
from models import Outputs

IMAGES = jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "masked", "count"), [((4, 4), 0.5, 8), ((3, 3), 0.5, 5), ((1, 1), 0.5, 1), ((2, 5), 0.25, 3)]
)
def test_the_mask_has_one_size_and_follows_from_the_key_and_the_example(shape, masked, count):
    mask = np.asarray(token_mask(jax.random.key(0), jnp.array([3, 7, 3]), shape, masked))
    assert mask.shape == (3, *shape, 1)
    assert list(mask.sum((1, 2, 3))) == [count] * 3
    assert np.array_equal(mask[0], mask[2])
    if shape == (4, 4):
        assert not np.array_equal(mask[0], mask[1])
        assert not np.array_equal(mask, token_mask(jax.random.key(1), jnp.array([3, 7, 3]), shape, masked))


@pytest.mark.slow
def test_masked_tokens_get_no_gradient_and_the_learned_token_does():
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
    mask = token_mask(jax.random.key(1), jnp.arange(2), (4, 4), 0.5)
    generator = Generator()
    variables = generator.init(jax.random.key(2), x, mask)
    by_x, by_variables = jax.grad(lambda x, v: jnp.sum(generator.apply(v, x, mask) ** 2), (0, 1))(x, variables)
    np.testing.assert_array_equal(by_x != 0, np.broadcast_to(~mask, x.shape))
    assert np.any(by_variables["params"]["token"])


def tokens(seed, width, count=17, blocks=3):
    random = np.random.RandomState(seed)
    features = {
        f"block{n}": jnp.asarray(random.standard_normal((6, count, width)), jnp.float32) for n in range(1, blocks + 1)
    }
    return Outputs(jnp.zeros((6, 5)), features)


@pytest.mark.slow
def test_the_loss_is_numpys():
    student, teacher = tokens(0, 8), tokens(1, 8, blocks=4)  # equal widths: no connector but the generator
    method, batch = (
        distiller.create("ViTKD", shallow_weight=0.3, deep_weight=0.7),
        make_batch(distiller.create("ViTKD")),
    )
    variables = method.init(keys(), student, teacher, batch)
    assert list(variables["params"]) == ["generator"]
    shallow = sum(
        np.sum((np.asarray(student.features[f"block{n}"]) - teacher.features[f"block{n}"])[:, 1:] ** 2) for n in (1, 2)
    )
    own, its = (
        np.asarray(layer_normalised(x[:, 1:])).reshape(6, 4, 4, 8)
        for x in (student.features["block3"], teacher.features["block4"])
    )
    np.testing.assert_allclose(own.std(-1), 1, rtol=1e-3)
    (loss, terms), seen = method.apply(
        variables, student, teacher, batch, rngs=keys(), capture_intermediates=lambda m, _: isinstance(m, Generator)
    )
    generated = np.asarray(seen["intermediates"]["generator"]["__call__"][0])
    np.testing.assert_allclose(terms["ViTKD_shallow"], 0.3 * shallow / 6, rtol=1e-5)
    # which tokens are masked: those whose value does not reach the loss through the generator's input
    by_own = jax.grad(lambda s: method.apply(variables, s, teacher, batch, rngs=keys())[1]["ViTKD_deep"])(student)
    masked = ~np.any(np.asarray(by_own.features["block3"])[:, 1:] != 0, axis=-1).reshape(6, 4, 4)
    assert list(masked.sum((1, 2))) == [8] * 6
    np.testing.assert_allclose(terms["ViTKD_deep"], 0.7 * np.sum((generated - its)[masked] ** 2) / 0.5 / 6, rtol=1e-4)
    np.testing.assert_allclose(loss, terms["ViTKD_shallow"] + terms["ViTKD_deep"], rtol=1e-6)


def test_connectors_stand_only_where_the_widths_differ():
    batch = make_batch(distiller.create("ViTKD"))
    shapes = jax.eval_shape(distiller.create("ViTKD").init, keys(), tokens(0, 8), tokens(1, 12), batch)
    assert sorted(shapes["params"]) == ["align1", "align2", "align_last", "generator"]
    assert shapes["params"]["align1"]["kernel"].shape == (8, 12)


@pytest.mark.slow
def test_it_reads_the_blocks_of_vits_with_other_patches_widths_and_tokens():
    """The default blocks 1 and 2 are taps whatever `stages` says."""
    student = models.create("ViT_Ti", 5, depth=3, patch_size=4, distilled=True, stages=1)
    teacher = models.create("ViT_S", 5, depth=4, patch_size=2)

    def outputs(model):
        return jax.eval_shape(lambda x: models.forward(model, model.init(jax.random.key(0), x), x)[0], IMAGES)

    batch = make_batch(distiller.create("ViTKD"), size=2)
    (loss, terms), variables = jax.eval_shape(
        lambda s, t: distiller.create("ViTKD").init_with_output(keys(), s, t, batch), outputs(student), outputs(teacher)
    )
    assert loss.shape == ()
    assert set(terms) == {"ViTKD_shallow", "ViTKD_deep"}
    assert variables["params"]["align1"]["kernel"].shape == (192, 384)


def test_a_block_that_is_not_there_is_named():
    batch = make_batch(distiller.create("ViTKD"))
    method = distiller.create("ViTKD", blocks="1:9")
    with pytest.raises(ValueError, match="blocks='1:9' names the teacher's block 9; the teacher has blocks 1 to 3"):
        jax.eval_shape(method.init, keys(), tokens(0, 8), tokens(1, 8), batch)
    with pytest.raises(ValueError, match=r"taps block1, ...\); the student has logits only.\nUse two ViTs"):
        jax.eval_shape(method.init, keys(), Outputs(jnp.zeros((6, 5)), {}), tokens(1, 8), batch)
