import zlib

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


def batch(index, view, seed=0, labels=LABELS, images=IMAGES):
    index, view = jnp.asarray(index, jnp.int32), jnp.asarray(view, jnp.int32)
    return make(jnp.asarray(images), jnp.asarray(labels), jnp.int32(seed), index, view, jnp.float32(1.5), HOW)


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
    for start in (0, 7, 17):
        part = batch(np.arange(start, start + 3), np.zeros(3)).image
        np.testing.assert_array_equal(part, whole[start : start + 3])


def test_views_differ_by_seed_by_pass_and_by_example():
    """Copies of one image stand for all examples: only their keys tell them apart."""
    images = np.repeat(IMAGES[:1], 20, axis=0)

    def views(seed, view):
        return np.asarray(batch(np.arange(20), np.full(20, view), seed, images=images).image)

    one = views(0, 0)
    assert len({image.tobytes() for image in one}) > 2
    assert (one != views(1, 0)).any()
    assert (one != views(0, 1)).any()


def test_withheld_labels_stay_minus_one():
    assert UNLABELLED == -1
    labels = np.where(np.arange(20) < 10, LABELS, UNLABELLED).astype(np.int32)
    assert batch([9, 10, 0], [0, 0, 0], labels=labels).label.tolist() == [4, -1, 0]


@pytest.mark.parametrize(
    ("how", "checksum"),
    [
        (HOW, 1408669357),
        (data.Augmentation(pad=1, mode="reflect"), 3629701156),
        (data.Augmentation(flip=True), 2617615281),
        (data.Augmentation(), 1001386071),
    ],
    ids=str,
)
def test_order_and_views_of_a_seed_stay_what_they_were(how, checksum):
    """Written down when there was no other augmentation: a run of then is continued with the same images."""
    index, view = data.epoch_plan(7, 3, jnp.arange(20, dtype=jnp.int32), 20)
    made = make(jnp.asarray(IMAGES), jnp.asarray(LABELS), jnp.int32(7), index, view, jnp.float32(0), how)
    levels = np.round(np.asarray(made.image) * 255).astype(np.uint8)
    assert zlib.crc32(np.asarray(index).tobytes() + levels.tobytes()) == checksum
    assert made.views == ()
    assert made.second_label is made.share is made.previous is None
    assert made.examples == 20


ROWS, PASS = jnp.array([4, 7, 1, 12, 9], jnp.int32), jnp.array([0, 0, 1, 1, 2], jnp.int32)
BEFORE = jnp.array([3, 3, 8, 19, 0], jnp.int32), jnp.array([0, 1, 0, 0, 0], jnp.int32)
ALL = ("weak", "weak", "strong", "partner", "previous")
make_views = jax.jit(data.make_batch, static_argnames=("augmentation", "views"))


def all_views(how=HOW, views=ALL, index=ROWS, view=PASS, previous=BEFORE, images=IMAGES):
    classes = data.class_table(LABELS)
    arrays = jnp.asarray(images), jnp.asarray(LABELS), jnp.int32(3), index, view, jnp.float32(1.5)
    return make_views(*arrays, how, views, classes, previous)


@pytest.mark.slow
def test_further_views_come_in_order_and_leave_the_first_as_it_is():
    alone, made = batch(ROWS, PASS, seed=3), all_views()
    np.testing.assert_array_equal(made.image, alone.image)
    assert len(made.views) == 4
    assert all(v.shape == made.image.shape and v.dtype == jnp.float32 for v in made.views)
    shown = [made.image, *made.views]
    for i, one in enumerate(shown):
        assert all((np.asarray(one) != np.asarray(two)).any() for two in shown[:i])
    # The same kind in the same place is the same view, whatever stands before it.
    swapped = all_views(views=("weak", "previous", "weak", "partner"))
    np.testing.assert_array_equal(swapped.views[2], made.views[2])
    np.testing.assert_array_equal(swapped.image, made.image)


def test_views_show_the_examples_that_they_say():
    """Without random crops every view but a strong one is a plain image."""
    made = all_views(data.Augmentation(), ("weak", "weak", "partner", "previous"))
    plain = IMAGES / np.float32(255)
    np.testing.assert_allclose(made.image, plain[ROWS], rtol=1e-6)
    np.testing.assert_allclose(made.views[0], plain[ROWS], rtol=1e-6)
    partner = data.class_partners(data.class_table(LABELS), jnp.int32(3), ROWS, PASS)
    np.testing.assert_allclose(made.views[1], plain[partner], rtol=1e-6)
    assert (LABELS[partner] == made.label).all()
    assert (partner != ROWS).all()
    np.testing.assert_allclose(made.views[2], plain[BEFORE[0]], rtol=1e-6)
    before = made.previous
    assert before.image is not None
    np.testing.assert_array_equal(before.image, made.views[2])
    np.testing.assert_array_equal(before.index, BEFORE[0])
    np.testing.assert_array_equal(before.label, LABELS[BEFORE[0]])
    assert before.previous is None
    assert before.views == ()


def test_further_views_depend_on_seed_view_and_example_alone():
    turn = jnp.array([3, 1, 4, 0, 2])
    whole = all_views()
    turned = all_views(index=ROWS[turn], view=PASS[turn], previous=tuple(x[turn] for x in BEFORE))
    for one, two in zip([whole.image, *whole.views], [turned.image, *turned.views], strict=True):
        np.testing.assert_array_equal(one[turn], two)


@pytest.mark.parametrize("how", [data.Augmentation(mixup=1.0), data.Augmentation(cutmix=1.0)], ids=str)
def test_mixing_mixes_every_view_with_the_same_row_by_the_same_share(how):
    """Images of one level each: what is seen tells the share."""
    images = np.broadcast_to(np.arange(20)[:, None, None, None], IMAGES.shape).astype(np.uint8) * 12
    views = ("weak", "weak", "previous")
    made = all_views(how, views, images=images)
    own, other = 12 / 255 * np.asarray(ROWS, float), 12 / 255 * np.roll(np.asarray(ROWS, float), 1)
    share = np.asarray(made.share)
    assert share.dtype == np.float32
    assert (share >= 0.5).all()
    np.testing.assert_allclose(made.image.mean((1, 2, 3)), share * own + (1 - share) * other, rtol=1e-5)
    np.testing.assert_array_equal(made.image, made.views[0])
    np.testing.assert_array_equal(made.label, LABELS[ROWS])
    np.testing.assert_array_equal(made.second_label, np.roll(LABELS[ROWS], 1))
    assert (np.asarray(all_views(how, views, view=PASS + 1, images=images).share) != share).any()
    # The rows of this step are the previous ones of the next: the same mixture again.
    following = all_views(how, views, images=images, index=BEFORE[0], previous=(ROWS, PASS))
    np.testing.assert_array_equal(following.views[1], made.image)
    np.testing.assert_array_equal(following.previous.share, made.share)
    np.testing.assert_array_equal(following.previous.second_label, made.second_label)


def test_the_lead_of_a_plan_is_the_end_of_the_epoch_before():
    pool = jnp.arange(20, dtype=jnp.int32)
    for size, length in ((20, 16), (4, 12)):
        for epoch in (1, 2):
            index, view = data.epoch_plan(5, epoch, pool[:size], length, lead=4)
            own, before = (data.epoch_plan(5, e, pool[:size], length) for e in (epoch, epoch - 1))
            np.testing.assert_array_equal(index, np.concatenate([before[0][-4:], own[0]]))
            np.testing.assert_array_equal(view, np.concatenate([before[1][-4:], own[1]]))
    index, view = data.epoch_plan(5, 0, pool, 16, lead=4)
    np.testing.assert_array_equal(index[4:], data.epoch_plan(5, 0, pool, 16)[0])
    assert len(set(index[:4].tolist())) == 4
    assert set(view[:4].tolist()) == {-1}  # no view of the run


@pytest.mark.parametrize(
    ("views", "missing", "message"),
    [
        (("weak", "other"), {}, "Views are of weak, strong, partner, previous"),
        (("strong",), {}, "the first is weak"),
        ((), {}, "the first is weak"),
        (("weak", "partner"), {"classes": None}, "needs classes"),
        (("weak", "previous"), {"previous": None}, "needs previous"),
        (("weak", "previous", "previous"), {}, "one view 'previous'"),
    ],
)
def test_views_that_cannot_be_are_told(views, missing, message):
    arrays = jnp.asarray(IMAGES), jnp.asarray(LABELS), jnp.int32(0), ROWS, PASS, jnp.float32(0)
    needed = {"classes": data.class_table(LABELS), "previous": BEFORE, **missing}
    with pytest.raises(ValueError, match=message):
        data.make_batch(*arrays, HOW, views, **needed)


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


def test_a_balanced_epoch_shows_all_classes_equally_often_and_follows_from_seed_and_epoch():
    labels = np.repeat(np.arange(3), [50, 8, 2])
    members = [np.flatnonzero(labels == c).astype(np.int32) for c in range(3)]
    index, view = data.balanced_plan(7, 1, members, 60, 6)
    assert (index.dtype, index.shape, view.shape) == (np.int32, (66,), (66,))
    assert np.bincount(labels[index[6:]]).tolist() == [20, 20, 20]
    assert len({*zip(index[6:].tolist(), view[6:].tolist(), strict=True)}) == 60  # no view of an example comes twice
    counts = np.bincount(index[6:], minlength=60)
    assert set(counts[50:58]) == {2, 3}  # the examples of a class come equally often
    assert set(counts[58:]) == {10}
    before = data.balanced_plan(7, 0, members, 60)
    np.testing.assert_array_equal(index[:6], before[0][-6:])
    np.testing.assert_array_equal(view[:6], before[1][-6:])
    assert not {*zip(*map(np.ndarray.tolist, before), strict=True)} & {
        *zip(index[6:].tolist(), view[6:].tolist(), strict=True)
    }
    np.testing.assert_array_equal(data.balanced_plan(7, 1, members, 60, 6)[0], index)
    assert not np.array_equal(data.balanced_plan(8, 1, members, 60, 6)[0], index)
