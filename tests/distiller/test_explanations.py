"""What the methods on explanation maps promise beyond the contract: they train, across networks, and can fail."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from drawn import drawn
from smooth_network import answer, make_batch, player

import data
import distiller
import models
from distiller.cat_kd import class_map_loss
from distiller.exp_kd import class_share_loss
from distiller.explanation_match import map_distance
from distiller.maps import cosine_distance, masked_mean, same_size, taught_classes
from registry import UserError

# Class maps, GradCAM, gradients at the input, LayerCAM.
METHODS = {
    "ExpKD": {},
    "E2KD": {"resize": False},
    "GradAT": {},
    "ExplanationMatch": {"distance": "kl"},
}


@pytest.fixture(scope="module")
def examples():
    """Eight images of 16x16x3 with labels."""
    image = jnp.asarray(np.random.RandomState(2).standard_normal((8, 16, 16, 3)), jnp.float32)
    label = jnp.arange(8, dtype=jnp.int32) % 5
    return data.Batch(image, label, jnp.arange(8, dtype=jnp.int32), jnp.float32(0))


def train(loss_of, examples, taps, steps=50):
    """Losses and the change of the weights over steps of Adam on the method alone, the student in training mode."""
    teacher, student = models.create("CNN", 5, widths=(8, 16, 16, 16)), models.create("CNN", 5, widths=(8, 8, 8, 8))
    forward = functools.partial(models.forward, images=examples.image, gradient_taps=taps)
    taught = jax.jit(lambda v: jax.lax.stop_gradient(forward(teacher, v)[0]))(drawn(teacher, examples.image, 1))
    start = drawn(student, examples.image, 3)
    optimizer = optax.adam(3e-3)

    @jax.jit
    def step(params, stats, state):
        def loss(params):
            outputs, new = forward(student, {"params": params, "batch_stats": stats}, train=True)
            return loss_of(outputs, taught), new

        (value, stats), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), stats, state, value

    params, stats = jax.tree.map(jnp.asarray, (start["params"], start["batch_stats"]))
    state, losses = optimizer.init(params), []
    with jax.numpy_dtype_promotion("standard"):
        for _ in range(steps):
            params, stats, state, value = step(params, stats, state)
            losses.append(float(value))
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), params, start["params"])
    return losses, max(jax.tree.leaves(moved))


@pytest.mark.slow
@pytest.mark.parametrize("key", METHODS)
def test_the_distance_of_the_maps_falls_in_training_on_it_alone(key, examples):
    method = distiller.create(key, **METHODS[key])

    def loss(student, taught):
        terms = method.apply({}, student, taught, examples)[1]
        return terms.get("E2KD_maps", terms.get(key))

    losses, moved = train(loss, examples, method.gradient_taps)
    assert losses[-1] < 0.7 * losses[0], losses
    assert moved > 1e-2


def test_a_softmax_over_the_batch_and_its_mean_teach_nothing(examples):
    method = distiller.create("ExpKD")

    def defect(student, taught):
        both = []
        for outputs in (student, taught):
            classes, _ = taught_classes("teacher", taught.logits, examples.label, 5)
            maps = distiller.maps.maps_of(method._rule(), outputs, classes)
            both.append(jnp.mean(jax.nn.softmax(maps, axis=0)))
        return jnp.square(both[0] - both[1])

    losses, moved = train(defect, examples, method.gradient_taps, steps=10)
    assert max(losses) < 1e-12
    assert moved < 1e-4  # Adam divides rounding errors by themselves; a method that teaches moves 100 times as far


VIT = {"width": 16, "heads": 2, "depth": 2, "stages": 2, "patch_size": 2}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("E2KD+LwM+GradAT", {}),
        ("ExplanationMatch", {"map": "SmoothGrad", "top_k": 2, "distance": "softmax"}),
    ],
)
def test_a_transformer_teaches_a_convolutional_network(name, options, examples):
    teacher, student = models.create("ViT_Ti", 5, **VIT), models.create("CNN", 5)
    method = distiller.create(name, **options)
    forward = functools.partial(models.forward, images=examples.image, gradient_taps=method.gradient_taps)
    taught_variables, variables = drawn(teacher, examples.image, 1), drawn(student, examples.image, 2)

    @jax.jit
    def gradient(params, taught_variables):
        def loss(params):
            outputs, _ = forward(student, {**variables, "params": params}, train=True)
            taught = jax.lax.stop_gradient(forward(teacher, taught_variables)[0])
            return method.apply({}, outputs, taught, examples)

        return jax.value_and_grad(loss, has_aux=True)(params)

    (_, terms), slopes = gradient(variables["params"], taught_variables)
    assert all(value > 0 for value in terms.values()), terms
    slopes = jax.tree.leaves(slopes)
    assert all(np.isfinite(slope).all() for slope in slopes)
    # a gradient's slope by a bias before a ReLU is zero, that by a kernel never
    assert all(np.any(slope) for slope in slopes if slope.ndim > 1)


def test_class_maps_of_a_transformer_are_refused_with_the_fix(examples):
    model = models.create("ViT_Ti", 5, **VIT)
    outputs = jax.jit(lambda v: models.forward(model, v, examples.image)[0])(drawn(model, examples.image, 1))
    for name in ("ExpKD", "CATKD"):
        with pytest.raises(ValueError, match="Take GradCAM"):
            distiller.create(name).apply({}, outputs, outputs, examples)


@pytest.mark.parametrize("key", ["LwM", "GradAT"])
def test_images_without_a_label_teach_nothing(key):
    method = distiller.create(key)
    batch = make_batch(method)
    players = [player(widths, 5, seed, batch.image) for seed, widths in enumerate([(3, 4, 5, 6), (4, 5, 6, 7)])]

    @jax.jit
    def loss(image, label):
        given = batch.replace(image=image, label=label)
        return method.apply({}, *(answer(*one, given, method) for one in players), given)[0]

    label = jnp.array([0, 1, 2, -1, -1, -1], jnp.int32)
    some = loss(batch.image, label)
    assert abs(some - loss(batch.image, batch.label)) > 1e-4 * some
    np.testing.assert_allclose(loss(batch.image.at[3:].set(0.5), label), some, rtol=1e-5)
    assert loss(batch.image, jnp.full(6, -1, jnp.int32)) == 0


def test_the_mean_is_over_the_rows_of_the_mask():
    assert masked_mean(jnp.array([1.0, 2.0, 4.0]), jnp.array([1.0, 0.0, 1.0])) == 2.5
    assert masked_mean(jnp.ones(3), jnp.zeros(3)) == 0


def test_the_distances_are_numpys():
    random = np.random.RandomState(0)
    s, t = (jnp.asarray(random.standard_normal((2, 3, 4, 5)), jnp.float32) for _ in range(2))
    a, b = (np.asarray(x, np.float64).reshape(2, 3, 20) for x in (s, t))
    cosine = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    np.testing.assert_allclose(map_distance(s, t, "cosine"), 1 - cosine, rtol=1e-5)
    np.testing.assert_allclose(map_distance(s, t, "l2"), ((a - b) ** 2).mean(-1), rtol=1e-5)

    def shares(x):
        x = np.exp(x / np.sqrt((x**2).mean(-1, keepdims=True)) / 2.0)
        return x / x.sum(-1, keepdims=True)

    p, q = shares(a), shares(b)
    np.testing.assert_allclose(map_distance(s, t, "softmax", 2.0), ((p - q) ** 2).sum(-1), rtol=1e-4)
    np.testing.assert_allclose(map_distance(s, t, "kl", 2.0), (q * np.log(q / p)).sum(-1), rtol=1e-4)
    with pytest.raises(ValueError, match="differ in shape"):
        map_distance(s, t[:, :1], "l2")


def test_shares_of_classes_and_pooled_class_maps_are_numpys():
    random = np.random.RandomState(0)
    s, t = (random.standard_normal((2, 3, 4, 4)) for _ in range(2))
    p, q = (np.exp(x / 2) / np.exp(x / 2).sum(1, keepdims=True) for x in (s, t))
    found = class_share_loss(jnp.asarray(s, jnp.float32), jnp.asarray(t, jnp.float32), 2.0)
    np.testing.assert_allclose(found, ((p - q) ** 2).sum(1).mean(), rtol=1e-4)
    a, b = (x.transpose(0, 2, 3, 1).reshape(2, 2, 2, 2, 2, 3).mean((2, 4)) for x in (s, t))
    found = [
        class_map_loss(*(jnp.asarray(x.transpose(0, 2, 3, 1), jnp.float32) for x in (s, t)), normalize=n)
        for n in (True, False)
    ]
    units = [x / np.sqrt((x**2).sum((1, 2), keepdims=True)) for x in (a, b)]
    np.testing.assert_allclose(found, [((units[0] - units[1]) ** 2).mean(), ((a - b) ** 2).mean()], rtol=1e-4)


@pytest.mark.slow
def test_a_map_of_nothing_has_a_finite_distance_and_gradient():
    zero, one = jnp.zeros((1, 1, 2, 2)), jnp.ones((1, 1, 2, 2))
    value, gradient = jax.value_and_grad(lambda x: cosine_distance(jax.nn.relu(x), one)[0, 0])(zero)
    assert value == pytest.approx(0.5)
    assert not np.any(gradient)


def test_the_larger_map_becomes_as_small_as_the_smaller():
    large, small = jnp.arange(16.0).reshape(1, 1, 4, 4), jnp.ones((1, 1, 2, 4))
    found, same = same_size(large, small)
    assert found.shape == same.shape == (1, 1, 2, 4)
    np.testing.assert_allclose(jnp.mean(found), 7.5, rtol=1e-5)
    assert same is small


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ExpKD", {"map": 3}, "'map' must be a string"),
        ("ExpKD", {"top_k": 0}, "'top_k' must be above 0"),
        ("CATKD", {"resolution": 0}, "'resolution' must be above 0"),
        ("LwM", {"classes": "labels"}, "'classes' must be 'label' or 'teacher' .*; got 'labels'"),
        ("GradAT", {"of": "logits"}, "'of' must be 'loss' or 'logit' .*; got 'logits'"),
        ("ExplanationMatch", {"distance": "l1"}, "'distance' must be 'cosine', 'l2', 'softmax' or 'kl' .*; got 'l1'"),
    ],
)
def test_mistakes_are_refused_when_built(name, options, message):
    with pytest.raises(UserError, match=message):
        distiller.create(name, **options)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ExpKD", {"map": "GradCan"}, "Did you mean 'GradCAM'"),
        ("ExplanationMatch", {"map": "CAM", "tap": "stage1"}, "Unknown option of CAM 'tap'"),
    ],
)
def test_mistakes_of_a_map_are_refused_before_anything_runs(name, options, message):
    with pytest.raises(UserError, match=message):
        _ = distiller.create(name, **options).gradient_taps
