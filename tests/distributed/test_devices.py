"""The number of devices changes where the work is done, and nothing else."""

import shutil

import pytest
from safetensors.numpy import load_file
from same_curve import RECIPE, STEPS, STOPPED, assert_same_curve, rows

pytestmark = pytest.mark.slow


def test_order_and_views_are_those_of_one_device(runs, two_devices):
    orders = {count: runs(count).order for count in (1, 4, 8)} | {2: two_devices.order}
    assert sorted(orders) == [1, 2, 4, 8]
    assert len(orders[1]) > 6 * 5
    assert len(set(orders[1].values())) > 6 * 5  # steps, epochs and views differ
    for count, found in orders.items():
        different = [key for key in orders[1] if found[key] != orders[1][key]]
        assert not different, (count, different)


def test_a_device_that_is_not_the_default_one_updates_as_the_default_one_does(two_devices):
    first, second = two_devices.alone
    assert first["device"] != second["device"]
    for one in (first, second):
        assert one["places"] == [one["device"]]
    assert first["bits"] == second["bits"]


def test_eight_devices_learn_as_one_does(runs):
    assert len([row for row in rows(runs(1).folder) if row["kind"] == "train"]) == STEPS
    assert rows(runs(1).folder)[0]["CRD_student"] > 0
    assert_same_curve(runs(8).folder, runs(1).folder)


def test_batch_statistics_are_those_of_the_global_batch(runs):
    ours, expected = (load_file(runs(count).folder / "last" / "weights.safetensors") for count in (8, 1))
    statistics = [key for key in expected if "batch_stats" in key]
    assert len(statistics) == 2 * 4
    for key in statistics:
        assert ours[key] == pytest.approx(expected[key], rel=1e-5, abs=1e-6), key


def test_memories_are_spread_by_rows_and_nothing_is_compiled_twice_or_copied(runs):
    for count in (4, 8):
        assert runs(count).notes["memory"] == [
            "label ('data',)",
            "normaliser ()",
            "student ('data',)",
            "teacher ('data',)",
        ]
    for count, steps in ((1, STEPS), (4, STOPPED), (8, STEPS)):
        assert (runs(count).notes["calls"], runs(count).notes["compiled"]) == (1, 1)
        assert runs(count).notes["donated"] == [True] * steps


def test_checkpoint_of_four_devices_goes_on_on_any_number(runs, on_devices, tmp_path):
    for count in (1, 2, 8):
        folder = shutil.copytree(runs(4).folder, tmp_path / f"on{count}")
        assert len(rows(folder)) == STOPPED
        on_devices(count, {"train": {**RECIPE, "train_path": str(folder)}})
        assert_same_curve(folder, runs(1).folder)


def test_what_networks_drop_and_what_strong_recipes_add_is_that_of_one_device(on_devices, tmp_path):
    recipe = {**RECIPE, "student_arch": "tests.training.dropping_network:Dropping", "train_epoch": 1}
    recipe |= {"distiller": "SoftLogits", "distiller_options": {}, "accumulate": 2, "ema_weights": 0.9}
    recipe |= {"label_smoothing": 0.1, "random_erasing": 0.25, "trivialaugment": True}
    for count, name in ((1, "one"), (4, "four")):
        on_devices(count, {"train": {**recipe, "train_path": str(tmp_path / name)}})
    assert_same_curve(tmp_path / "four", tmp_path / "one")


def test_replicas_in_one_program_and_many_steps_a_call(on_devices, tmp_path):
    """As on a GPU: `vmap` over seeds, loops in the program; with a memory."""
    recipe = {**RECIPE, "train_epoch": 1, "batch_size": 400, "log_every": 3, "seeds": 2}
    on_devices(1, {"train": {**recipe, "train_path": str(tmp_path / "one")}})
    fast = {"stack_seeds": "yes", "steps_per_call": "2", "train_path": str(tmp_path / "four")}
    notes = on_devices(4, {"train": {**recipe, **fast}})[0]
    assert_same_curve(tmp_path / "four", tmp_path / "one", ("s0", "s1"))
    assert "teacher ('data',)" in notes["memory"]
    assert notes["compiled"] == 1
