import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import data
from data.batch import UNLABELLED

IMAGES = np.random.RandomState(0).randint(0, 256, (20, 6, 6, 2)).astype(np.uint8)
LABELS = np.arange(20, dtype=np.int32) % 5
HOW = data.Augmentation(pad=2, flip=True)


def plan(seed=0, epoch=0, pool=20, length=20):
    index, view = data.epoch_plan(seed, epoch, jnp.arange(pool, dtype=jnp.int32), length)
    return np.asarray(index), np.asarray(view)


make = jax.jit(data.make_batch, static_argnames="augmentation")


def batch(index, view, seed=0, labels=LABELS):
    index, view = jnp.asarray(index, jnp.int32), jnp.asarray(view, jnp.int32)
    return make(jnp.asarray(IMAGES), jnp.asarray(labels), jnp.int32(seed), index, view, jnp.float32(1.5), HOW)


def test_an_epoch_is_a_shuffled_pass_over_the_pool():
    index, view = plan()
    assert sorted(index) == list(range(20))
    assert list(index) != list(range(20))
    assert set(view) == {0}
    assert index.dtype == view.dtype == np.int32


def test_the_order_follows_from_seed_and_epoch_alone():
    np.testing.assert_array_equal(plan(3, 4)[0], plan(3, 4)[0])
    orders = {tuple(plan(seed, epoch)[0]) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


def test_the_pool_may_be_any_examples():
    pool = jnp.array([17, 3, 11], jnp.int32)
    index, _ = data.epoch_plan(0, 0, pool, 3)
    assert sorted(index.tolist()) == [3, 11, 17]


def test_an_incomplete_last_batch_is_dropped_without_repeating_an_example():
    index, _ = plan(length=16)
    assert len(set(index)) == 16


def test_a_small_pool_is_passed_over_again_and_again_with_new_views():
    for epoch in range(3):
        index, view = plan(epoch=epoch, pool=4, length=12)
        for turn in range(3):
            rows = slice(4 * turn, 4 * turn + 4)
            assert sorted(index[rows]) == [0, 1, 2, 3]
            assert set(view[rows]) == {3 * epoch + turn}


def test_a_cut_last_pass_keeps_the_views_of_the_next_epoch_apart():
    first, second = plan(epoch=0, pool=8, length=12), plan(epoch=1, pool=8, length=12)
    assert set(first[1]) == {0, 1}
    assert set(second[1]) == {2, 3}


def test_a_batch_holds_what_was_asked_for():
    made = batch([5, 0, 5], [0, 0, 1])
    assert made.image.shape == (3, 6, 6, 2)
    assert made.image.dtype == jnp.float32
    assert made.label.tolist() == [0, 0, 0]
    assert made.index.tolist() == [5, 0, 5]
    assert (made.label.dtype, made.index.dtype) == (jnp.int32, jnp.int32)
    assert float(made.epoch) == 1.5


def test_a_view_depends_on_seed_view_and_example_alone():
    whole = batch(np.arange(20), np.zeros(20)).image
    shuffled = batch(np.arange(20)[::-1], np.zeros(20)).image
    np.testing.assert_array_equal(whole, shuffled[::-1])
    for start in (0, 7, 13):
        part = batch(np.arange(start, start + 7), np.zeros(7)).image
        np.testing.assert_array_equal(part, whole[start : start + 7])


def test_views_differ_by_seed_by_pass_and_by_example():
    """Six copies of one image stand for six examples: only their keys tell them apart."""
    images = jnp.asarray(np.repeat(IMAGES[:1], 6, axis=0))
    index = jnp.arange(6, dtype=jnp.int32)

    def views(seed, view):
        made = make(images, jnp.zeros(6, jnp.int32), jnp.int32(seed), index, jnp.full(6, view), jnp.float32(0), HOW)
        return np.asarray(made.image)

    one = views(0, 0)
    assert len({image.tobytes() for image in one}) > 2
    assert (one != views(1, 0)).any()
    assert (one != views(0, 1)).any()


def test_withheld_labels_stay_minus_one():
    assert UNLABELLED == -1
    labels = np.where(np.arange(20) < 10, LABELS, UNLABELLED).astype(np.int32)
    assert batch([9, 10, 0], [0, 0, 0], labels=labels).label.tolist() == [4, -1, 0]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(3, 30), min_size=2, max_size=6), st.data(), st.integers(0, 5))
def test_a_subset_is_balanced_sorted_and_without_repeats(sizes, draw, seed):
    labels = np.random.RandomState(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    count = draw.draw(st.integers(1, min(sizes) * len(sizes)))
    chosen = data.balanced_subset(labels, count, seed)
    assert chosen.dtype == np.int32
    assert list(chosen) == sorted(set(chosen))
    assert len(chosen) == count
    shares = np.bincount(labels[chosen], minlength=len(sizes))
    assert shares.max() - shares.min() <= 1
    assert list(shares) == sorted(shares, reverse=True)  # the first classes get the rest


def test_a_subset_follows_from_its_seed():
    labels = np.arange(1000) % 10
    one = data.balanced_subset(labels, 50, 1)
    np.testing.assert_array_equal(one, data.balanced_subset(labels, 50, 1))
    assert set(one) != set(data.balanced_subset(labels, 50, 2))


def test_a_class_with_too_few_examples_gives_all_and_the_others_make_up_for_it():
    labels = np.array([0] * 2 + [1] * 50 + [2] * 50)
    assert np.bincount(labels[data.balanced_subset(labels, 30, 0)]).tolist() == [2, 14, 14]


@pytest.mark.parametrize("count", [100, 101])
def test_a_subset_is_never_larger_than_the_split(count):
    assert list(data.balanced_subset(np.arange(100) % 3, count, 0)) == list(range(100))


def test_fixed_views_go_around_all_of_them_and_start_anywhere():
    index = jnp.arange(300, dtype=jnp.int32)
    passes = np.stack([data.fixed_views(3, index, jnp.full_like(index, number), 4) for number in range(12)])
    cycles = passes.reshape(3, 4, 300)
    assert (np.sort(cycles, axis=1) == np.arange(4)[:, None]).all()  # each view of each example once a cycle
    for shown in passes:
        assert np.bincount(shown, minlength=4).min() > 40  # no pass shows one number throughout
    again = (cycles[0] == cycles[1]).all(axis=0).mean()
    assert 0.1 < again < 0.4  # one cycle says nothing of the next: a quarter starts at the same view
    assert (np.asarray(data.fixed_views(3, index, index, 1)) == 0).all()
    assert (data.fixed_views(4, index, 0 * index, 4) != passes[0]).any()
