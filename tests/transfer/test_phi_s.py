"""PHI-S against its definition in NumPy, and what a run with it reads, keeps and refuses."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import data
import distiller
import transfer
from registry import UserError
from transfer import phi_s

RANDOM = np.random.RandomState(0)
KEY = jax.random.key(3)


@pytest.mark.parametrize("size", [1, 2, 4, 8, 12, 16, 20, 24, 28, 36, 40, 60, 64, 76, 128, 144, 384, 768, 1152, 1280])
def test_hadamard_matrices_are_orthonormal_with_entries_of_one_size(size):
    found = phi_s.hadamard(size)
    np.testing.assert_allclose(np.abs(found), size**-0.5, rtol=1e-12)
    np.testing.assert_allclose(found @ found.T, np.eye(size), atol=1e-12)


@pytest.mark.parametrize("size", [3, 6, 10, 18, 27, 92])
def test_sizes_without_a_known_one_are_balanced_all_the_same(size):
    assert phi_s.hadamard(size) is None
    variances = np.exp(3 * RANDOM.standard_normal(size))
    variances[0] = 0.0
    found = phi_s.balancing(variances)
    np.testing.assert_allclose(found @ found.T, np.eye(size), atol=1e-12)
    np.testing.assert_allclose(np.diagonal(found * variances @ found.T), variances.mean(), rtol=1e-9)
    assert np.abs(found).max() < 0.95 or size < 6  # no channel stays what it was
    np.testing.assert_array_equal(found, phi_s.balancing(variances))


def samples(width, count=500):
    mixing = RANDOM.standard_normal((width, width)) * np.exp(RANDOM.standard_normal(width))
    return (RANDOM.standard_normal((count, width)) @ mixing + 100 * RANDOM.standard_normal(width)).astype(np.float32)


def by_definition(x, width):
    """alpha H U^T (x - mean) in float64, U and the eigenvalues from the covariance."""
    x = x.astype(np.float64)
    mean, covariance = x.mean(0), np.cov(x.T, bias=True)
    values, vectors = np.linalg.eigh(covariance)
    return (x - mean) @ (phi_s.hadamard(width) @ vectors.T / np.sqrt(values.mean())).T


@pytest.mark.parametrize("width", [4, 12, 16])
def test_features_are_those_of_the_definition(width):
    x = samples(width)
    facts = phi_s.statistics(iter(np.array_split(x, 7)))
    assert {name: (v.shape, v.dtype) for name, v in facts.items()} == {
        "mean": ((width,), np.float32),
        "matrix": ((width, width), np.float32),
    }
    found, expected = np.asarray(phi_s.apply(jnp.asarray(x), **facts)), by_definition(x, width)
    # an eigenvector's sign is the solver's choice, so distances and variances are compared, not the numbers
    pairs = [np.linalg.norm(y[:100, None] - y[None, :100], axis=2) for y in (found, expected)]
    np.testing.assert_allclose(*pairs, rtol=1e-3, atol=1e-3)
    for y in (found, expected):
        np.testing.assert_allclose(y.mean(0), 0, atol=1e-3)
        np.testing.assert_allclose(y.var(0), 1, rtol=1e-3)
    original = np.linalg.norm(x[:100, None] - x[None, :100], axis=2)
    ratio = pairs[0][original > 0] / original[original > 0]
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-3)  # a rotation and one scale


def test_blocks_and_the_size_of_the_mean_do_not_matter():
    x = samples(8)
    whole, parts = phi_s.statistics(iter([x])), phi_s.statistics(iter(np.array_split(x, [1, 3, 250])))
    for name in whole:
        np.testing.assert_allclose(parts[name], whole[name], rtol=1e-4, atol=1e-6)


def test_features_that_never_change_become_0():
    facts = phi_s.statistics(iter([np.full((5, 4), 7.0)]))
    assert np.array_equal(phi_s.apply(jnp.full((2, 4), 7.0), **facts), np.zeros((2, 4)))
    low = np.outer(RANDOM.standard_normal(300), np.ones(4))  # one direction of four
    y = phi_s.apply(jnp.asarray(low, jnp.float32), **phi_s.statistics(iter([low])))
    np.testing.assert_allclose(np.var(y, axis=0), 1, rtol=1e-4)


@pytest.fixture(scope="module")
def teachers(player, staged, small, batch):
    one, other = player("one", 0.3, 2.0), staged("other")
    return (one, other), (small.teacher_variables, jax.jit(other.init)(jax.random.key(6), batch.image))


@pytest.fixture(scope="module")
def split():
    images = RANDOM.randint(0, 256, (150, 8, 8, 1)).astype(np.uint8)
    return data.Split.of(images, np.zeros(150, np.int32))


@pytest.fixture
def prepare(player, staged, split, batch):
    """Method, teachers and their variables -> the prepared strategy; the student has two stages."""

    def build(method, teacher, variables, **options):
        strategy = transfer.create(
            "Offline",
            student=staged("student"),
            teacher=teacher,
            teacher_variables=variables,
            method=distiller.create(method),
            optimizer=optax.sgd(0.1),
            **{"standardise": "phi_s", **options},
        )

        def abstract(strategy):
            state = jax.eval_shape(strategy.init, KEY, batch)
            return state, jax.eval_shape(lambda: batch), jax.eval_shape(lambda: KEY)

        return strategy.prepared(abstract).prepared(abstract, split)

    return build


@pytest.mark.slow
def test_what_the_method_reads_is_standardised_and_nothing_else(teachers, prepare, split, batch):
    strategy = prepare("PKT+SoftLogits", *teachers)
    assert {name: set(v[phi_s.COLLECTION]) for name, v in strategy.frozen.items()} == {
        "teacher1": {"embedding"},
        "teacher2": {"embedding"},
    }
    image = jnp.asarray(split.images[:128], jnp.float32) / 255
    for plain, variables, own in zip(*teachers, strategy.teacher, strict=True):
        found = own.forward(strategy.frozen["teacher1" if plain.name == "one" else "teacher2"], image)[0]
        expected = plain.forward(variables, image)[0]
        np.testing.assert_array_equal(found.logits, expected.logits)
        np.testing.assert_allclose(np.mean(found.features["embedding"], axis=0), 0, atol=1e-4)
        np.testing.assert_allclose(np.var(found.features["embedding"], axis=0), 1, rtol=1e-3)
        np.testing.assert_array_equal(found.features["stage1"], expected.features["stage1"])


def test_maps_have_their_positions_as_rows(teachers, prepare, split):
    strategy = prepare("SP", teachers[0][1], teachers[1][1])
    ((name, variables),) = strategy.frozen.items()
    assert name == "teacher"
    (tap,) = variables[phi_s.COLLECTION]
    image = jnp.asarray(split.images[:128], jnp.float32) / 255
    found = strategy.teacher.forward(variables, image)[0].features[tap]
    assert found.ndim == 4
    np.testing.assert_allclose(np.var(found, axis=(0, 1, 2)), 1, rtol=1e-3)


@pytest.mark.slow
def test_a_step_learns_from_them_and_the_statistics_are_arrays_of_the_state(teachers, prepare, batch, same):
    strategy = prepare("RKD", *teachers)
    state = jax.jit(strategy.init)(KEY, batch)
    after, metrics = jax.jit(strategy.step)(state, batch, KEY)
    assert same(state.frozen, after.frozen)
    plain = prepare("RKD", *teachers, standardise="none")
    assert plain.teacher == teachers[0]
    _, usual = jax.jit(plain.step)(jax.jit(plain.init)(KEY, batch), batch, KEY)
    assert np.isfinite(metrics["RKD_distance"])
    # RKD divides distances by their mean and angles have no scale: a rotation and one scale change nothing
    for name in ("RKD_distance", "RKD_angle"):
        np.testing.assert_allclose(metrics[name], usual[name], rtol=1e-3)
    changed = {**state.frozen, "teacher1": jax.tree.map(jnp.zeros_like, state.frozen["teacher1"])}
    _, other = jax.jit(strategy.step)(state.replace(frozen=changed), batch, KEY)
    assert other["RKD_distance"] != metrics["RKD_distance"]


@pytest.mark.slow
def test_teachers_of_any_scale_weigh_alike(prepare, staged, batch):
    """A stage times 10 gives the same loss, and without the standardisation a far larger one."""
    player = staged("one")
    variables = jax.jit(player.init)(jax.random.key(6), batch.image)
    bn = variables["params"]["bn2"]
    large = {**variables, "params": {**variables["params"], "bn2": jax.tree.map(lambda x: 10 * x, bn)}}

    def loss(variables, **options):
        strategy = prepare("FitNet", player, variables, **options)
        return float(jax.jit(strategy.losses)(*first(strategy, batch))[0]["FitNet"])

    def first(strategy, batch):
        state = jax.jit(strategy.init)(KEY, batch)
        return state.params, state, batch, KEY

    assert loss(large) == pytest.approx(loss(variables), rel=1e-2)
    assert loss(large, standardise="none") > 10 * loss(variables, standardise="none")


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("SoftLogits", {}, "'standardise' 'phi_s' has no effect: SoftLogits reads no feature of a teacher"),
        ("Logits", {"combine": "logits"}, "has no effect: Logits reads no feature"),
        ("SoftLogits+E2KD", {}, r"changes features, and SoftLogits\+E2KD reads gradients"),
        ("SRRL", {}, "changes the teacher's embedding, and the method asks the teacher's classifier"),
    ],
)
def test_what_cannot_be_standardised_is_refused(method, options, message, teachers, prepare):
    with pytest.raises(UserError, match=message):
        prepare(method, *teachers, **options)


def test_the_option_has_two_values(teachers, prepare):
    with pytest.raises(UserError, match="'standardise' must be 'none' or 'phi_s'"):
        prepare("PKT", *teachers, standardise="phi")


def test_a_subclass_of_player_keeps_every_field(player):
    one = player("one", 0.3, 2.0)
    same = phi_s.Standardised(**{field.name: getattr(one, field.name) for field in dataclasses.fields(one)})
    assert dataclasses.asdict(same) == dataclasses.asdict(one)
