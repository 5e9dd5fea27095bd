"""A real training process, killed without warning or asked to stop: the same command ends with the same bits."""

import json
import os
import random
import signal
import time

import pytest
import real_process
from real_process import contents, reached, wait_for

FLAGS = ["--teacher_param", "tests/teacher", "--student_arch", "CNN", "--distiller", "SoftLogits"]
FLAGS += ["--train_epoch", "2", "--batch_size", "100", "--log_every", "5"]
FLAGS += ["--config.crop_pad=1", "--config.checkpoint_seconds=0"]  # a checkpoint after every step
STEPS = 24
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The suite's cache of compiled programs, and what an uninterrupted run leaves."""
    folder, cache = tmp_path_factory.mktemp("whole") / "run", os.environ["JAX_COMPILATION_CACHE_DIR"]
    real_process.finish(folder, cache, FLAGS)
    return cache, contents(folder)


def test_killed_at_random_moments_ends_with_the_same_bits(whole, tmp_path):
    """A chain of three; `make soak` is the long form."""
    cache, expected = whole
    assert any("opt_state" in name for name in expected)
    assert any("batch_stats" in name for name in expected)
    rng, folder, killed = random.Random(0), tmp_path / "run", []
    for low, high, while_saving in ((1, 6, False), (8, 12, True), (14, 18, False)):
        process = real_process.start(folder, cache, FLAGS)
        step = rng.randint(low, high)
        wait_for(process, lambda step=step: reached(folder) >= step)
        if while_saving:
            wait_for(process, lambda: real_process.saving(folder))
        else:
            time.sleep(rng.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        killed.append(reached(folder))
        assert not (folder / "summary.json").exists()
    assert killed == sorted(set(killed))
    output = real_process.finish(folder, cache, FLAGS)
    assert "Continuing at step" in output
    assert "Warning" not in output  # a kill leaves nothing that looks damaged
    assert contents(folder) == expected
    assert json.loads((folder / "summary.json").read_text())["steps"] == STEPS


def test_a_streamed_run_that_is_killed_ends_with_the_bits_of_a_run_in_memory(whole, tmp_path):
    cache, expected = whole
    folder, flags = tmp_path / "run", [*FLAGS, "--loading", "stream"]
    process = real_process.start(folder, cache, [*flags, "--loading_threads", "4"])
    wait_for(process, lambda: reached(folder) >= 14)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert "Continuing at step" in real_process.finish(folder, cache, [*flags, "--loading_threads", "1"])
    assert contents(folder) == expected


def killed_and_whole(folder, cache, flags, step):
    """The folders of two runs of the same command: one killed at `step` and continued, one left alone."""
    process = real_process.start(folder / "killed", cache, flags)
    wait_for(process, lambda: reached(folder / "killed") >= step)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert "Continuing at step" in real_process.finish(folder / "killed", cache, flags)
    real_process.finish(folder / "whole", cache, flags)
    return folder / "killed", folder / "whole"


def test_quantised_students_of_two_seeds_end_with_the_same_bits_after_a_kill(whole, tmp_path):
    flags = [*FLAGS, "--student_quantize", "int8", "--seeds", "2"]
    flags[flags.index("--train_epoch") + 1] = "1"
    runs = killed_and_whole(tmp_path, whole[0], flags, step=5)
    for name in real_process.RESULTS:
        ended, expected = ([(run / seed / name).read_bytes() for seed in ("s0", "s1")] for run in runs)
        assert ended == expected
        assert ended[0] != ended[1]
    described = json.loads((runs[0] / "s1" / "last" / "model.json").read_text())
    assert described["options"] == {"quantize": "int8"}


def test_a_detector_that_is_killed_ends_with_the_same_bits(whole, tmp_path):
    flags = ["--transfer", "Labels", "--student_arch", "tests.training.tiny_detectors:TinyRetinaNet"]
    flags += ["--dataset", "tests.training.tiny_detectors:few", "--batch_size", "100", "--train_epoch", "2"]
    flags += ["--config.checkpoint_seconds=0"]
    killed, expected = killed_and_whole(tmp_path, whole[0], flags, step=7)
    assert contents(killed) == contents(expected)


def test_asked_to_stop_saves_and_exits_with_75(whole, tmp_path):
    """SIGINT, then SIGTERM after going on, then two at once: saved, saved, and ended on the spot; then to the end."""
    cache, expected = whole
    folder = tmp_path / "run"
    for number, step in ((signal.SIGINT, 4), (signal.SIGTERM, 9)):
        process = real_process.start(folder, cache, FLAGS)
        wait_for(process, lambda step=step: reached(folder) >= step)
        process.send_signal(number)
        asked = time.monotonic()
        output = process.communicate(timeout=real_process.PATIENCE)[0]
        assert process.returncode == 75, output
        assert time.monotonic() - asked < 10
        assert f"Interrupted at step {reached(folder)}; saved in {folder}" in output
        assert "Traceback" not in output
    process = real_process.start(folder, cache, FLAGS)
    wait_for(process, lambda: reached(folder) >= 14)
    process.send_signal(signal.SIGSTOP)  # so that both arrive before it can act on the first
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGCONT)
    asked = time.monotonic()
    output = process.communicate(timeout=real_process.PATIENCE)[0]
    assert process.returncode in (128 + signal.SIGTERM, 128 + signal.SIGINT), output
    assert time.monotonic() - asked < 2
    assert 14 <= reached(folder) < STEPS
    output = real_process.finish(folder, cache, FLAGS)
    assert "Warning" not in output
    assert contents(folder) == expected


@pytest.mark.parametrize("there", ["config.json", "checkpoints/0", "parameters.txt"])
def test_asked_to_stop_before_the_first_step_exits_with_75(there, whole, tmp_path):
    """While the networks are made; while the first checkpoint is written; while the step is compiled."""
    process = real_process.start(tmp_path / "run", whole[0], FLAGS)
    wait_for(process, (tmp_path / "run" / there).exists)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=real_process.PATIENCE)[0]
    assert process.returncode == 75, output
    assert "The same command continues" in output
    assert "Traceback" not in output
