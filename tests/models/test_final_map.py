"""The tap `final` is what its name promises: the map whose mean over positions is the embedding."""

import jax
import numpy as np
import pytest

import models

WITHOUT = {"ViT_Ti", "ViT_S", "ViT_B", "ConvNeXt_T"}  # class token; a norm between the mean and the classifier
RUN = ["ResNet8", "WRN_16_1", "VGG8", "CNN", "MobileNetV2", "ShuffleNetV1", "ShuffleNetV2"]


@pytest.mark.parametrize("name", models.names())
def test_networks_that_pool_a_map_have_it(name):
    model = models.create(name, 3)
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32)
    outputs = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x)[0], images)
    assert ("final" in outputs.features) == (name not in WITHOUT)
    if name not in WITHOUT:
        assert outputs.features["final"].shape[::3] == outputs.features["embedding"].shape


@pytest.mark.parametrize("name", RUN)
def test_the_embedding_is_its_mean(name):
    model = models.create(name, 3)
    images = np.random.RandomState(0).standard_normal((2, 16, 16, 3)).astype(np.float32)
    random = np.random.RandomState(1)
    variables = jax.tree.map(
        lambda x: random.uniform(0.2, 1.0, x.shape).astype(x.dtype) / max(np.prod(x.shape[:-1]), 1),
        jax.eval_shape(model.init, jax.random.key(0), images),
    )
    features = jax.jit(lambda v, x: models.forward(model, v, x)[0].features)(variables, images)
    assert np.abs(features["embedding"]).max() > 0
    np.testing.assert_allclose(np.mean(features["final"], axis=(1, 2)), features["embedding"], rtol=1e-4, atol=1e-6)
