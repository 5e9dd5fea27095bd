import jax
import jax.numpy as jnp
import numpy as np

import data

LABELS = np.array([2, 0, 1, 0, 2, 0, -1, 3, 2, 0, -1], np.int32)
partners = jax.jit(data.class_partners)


def drawn(view, index=None, seed=0, labels=LABELS):
    index = np.arange(len(labels)) if index is None else index
    index, view = jnp.asarray(index, jnp.int32), jnp.asarray(np.broadcast_to(view, len(index)), jnp.int32)
    return np.asarray(partners(data.class_table(labels), jnp.int32(seed), index, view))


def test_a_partner_is_another_example_of_the_class():
    for view in range(20):
        found = drawn(view)
        assert found.dtype == np.int32
        np.testing.assert_array_equal(LABELS[found], LABELS)
        alone = np.isin(LABELS, [1, 3, -1])  # the only one of its class, or without one
        np.testing.assert_array_equal(found == np.arange(len(LABELS)), alone)


def test_each_of_the_others_is_equally_likely():
    count = 3000
    found = partners(
        data.class_table(LABELS), jnp.int32(0), jnp.full(count, 3, jnp.int32), jnp.arange(count, dtype=jnp.int32)
    )
    counts = np.bincount(found, minlength=len(LABELS))
    assert set(np.flatnonzero(counts)) == {1, 5, 9}
    assert abs(counts[[1, 5, 9]] - count / 3).max() < 4 * np.sqrt(count * 2 / 9)


def test_a_partner_follows_from_seed_view_and_index_alone():
    whole = drawn(4)
    np.testing.assert_array_equal(drawn(4, np.arange(11)[::-1]), whole[::-1])
    np.testing.assert_array_equal(drawn(4, [5, 3]), whole[[5, 3]])
    assert any((drawn(view) != whole).any() for view in range(5, 9))
    assert any((drawn(4, seed=seed) != whole).any() for seed in range(1, 5))


def test_the_table_lists_the_examples_class_by_class():
    table = data.class_table(LABELS)
    assert LABELS[np.asarray(table.order)].tolist() == sorted(LABELS)
    own = np.asarray(table.order)[np.asarray(table.start) + np.asarray(table.position)]
    np.testing.assert_array_equal(own, np.arange(len(LABELS)))
    assert np.asarray(table.count)[LABELS == 0].tolist() == [4, 4, 4, 4]


def test_without_any_label_everybody_is_alone():
    np.testing.assert_array_equal(drawn(0, labels=np.full(5, -1, np.int32)), np.arange(5))
