"""The number of devices changes where the work is done, and nothing else."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file
from same_curve import PATIENCE, STEPS, STOPPED, assert_same_curve, environment, rows

pytestmark = pytest.mark.slow


def test_order_and_views_are_those_of_one_device(runs):
    """Eight devices are also fed as four (`many_devices.streamed`)."""
    orders = {count: made.order for count, made in runs.items()}
    assert sorted(orders) == [1, 2, 8]
    assert len(orders[1]) > 6 * 5
    assert len(set(orders[1].values())) > 6 * 5  # steps, epochs and views differ
    for count, found in orders.items():
        different = [key for key in orders[1] if found[key] != orders[1][key]]
        assert not different, (count, different)


def test_a_device_that_is_not_the_default_one_updates_as_the_default_one_does(runs):
    first, second = runs[2].alone
    assert first["device"] != second["device"]
    for one in (first, second):
        assert one["places"] == [one["device"]]
    assert first["bits"] == second["bits"]


def test_what_eight_devices_began_ends_on_any_number_as_one_device_does_it(runs):
    assert len([row for row in rows(runs[1].folder) if row["kind"] == "train"]) == STEPS
    assert rows(runs[1].folder)[0]["CRD_student"] > 0
    assert len(rows(runs[8].folder)) == STOPPED
    for count in (1, 2, 8):
        assert_same_curve(runs[count].again, runs[1].folder)


def test_batch_statistics_are_those_of_the_global_batch(runs):
    ours, expected = (load_file(f / "last" / "weights.safetensors") for f in (runs[8].again, runs[1].folder))
    statistics = [key for key in expected if "batch_stats" in key]
    assert len(statistics) == 2 * 4
    for key in statistics:
        assert ours[key] == pytest.approx(expected[key], rel=1e-5, abs=1e-6), key


def test_each_device_can_have_its_own_batch_statistics(runs):
    """`batch_norm_chips`: as on one device with groups of rows, and without an exchange in each batch norm."""
    both, one = runs[2].groups["states"]
    for ours, expected in zip(both, one, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)
    grouped, whole = runs[2].groups["collectives"]
    assert 0 < grouped <= whole - 4  # there are four batch norms


def test_memories_are_spread_by_rows_and_nothing_is_compiled_twice_or_copied(runs):
    assert runs[8].notes["memory"] == ["label ('data',)", "normaliser ()", "student ('data',)", "teacher ('data',)"]
    for count, steps in ((1, STEPS), (8, STOPPED)):
        assert (runs[count].notes["calls"], runs[count].notes["compiled"]) == (1, 1)
        assert runs[count].notes["donated"] == [True] * steps


def test_what_networks_drop_and_what_strong_recipes_add_is_that_of_one_device(runs):
    assert_same_curve(runs[2].strong, runs[1].strong)


def test_a_detector_learns_as_on_one_device(runs):
    assert_same_curve(runs[2].detector, runs[1].detector)


def test_replicas_in_one_program_and_many_steps_a_call(runs):
    """As on a GPU: `vmap` over seeds, loops in the program; with a memory."""
    assert_same_curve(runs[2].replicas, runs[1].replicas, ("s0", "s1"))
    assert "teacher ('data',)" in runs[2].notes["memory"]
    assert runs[2].notes["compiled"] == 1


def test_in_float64_two_devices_stay_with_one_where_float32_drifts_apart():
    """SoftLogits at Digits' default recipe, an epoch of 18 steps: the drift is rounding that grows, not a fault."""
    script, curves = pathlib.Path(__file__).with_name("rounding.py"), []
    for count in ("1", "2"):
        command = [sys.executable, str(script), count, "float64", "1"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=2 * PATIENCE, env=environment())
        assert done.returncode == 0, done.stderr[-4000:]
        curves.append(json.loads(done.stdout.splitlines()[-1]))
    assert len(curves[0]) == 18
    np.testing.assert_allclose(*curves, rtol=1e-9)
