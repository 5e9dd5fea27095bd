"""Programs that are compiled in a thread before their first call."""

import collections
import logging
import re
import threading

import jax
import jax.numpy as jnp
import pytest
from training.run import train
from training.step import compile_ahead, shapes

RECIPE = {"student_arch": "CNN", "train_epoch": 1, "batch_size": 50, "num_labels": 100, "log_every": 2}
BY_TEACHER = {"teacher_param": "tests/teacher", "num_labels": 0}


@pytest.fixture
def compiled(caplog):
    """Name -> how many programs of that name were compiled so far, in any thread."""
    caplog.set_level(logging.DEBUG, logger="jax._src.dispatch")

    def count():
        return collections.Counter(re.findall(r"Finished XLA compilation of jit\((\w+)\)", caplog.text))

    return count


def test_a_call_finds_what_was_compiled_ahead(compiled):
    def grows_by_three(x):
        return {"y": x + 3}

    program = jax.jit(grows_by_three)
    x = jax.device_put(jnp.arange(4.0), shapes(jnp.arange(4.0)).sharding)
    wait = compile_ahead(program, shapes(x))
    wait()
    assert compiled()["grows_by_three"] == 1
    assert program(x)["y"].tolist() == [3, 4, 5, 6]
    assert compiled()["grows_by_three"] == 1


def test_what_does_not_compile_is_told_by_the_call_alone(capfd):
    program = jax.jit(lambda x: x + 1, compiler_options={"xla_no_such_option": True})
    compile_ahead(program, 1.0)()
    assert "no_such_option" not in "".join(capfd.readouterr())
    with pytest.raises(Exception, match="no_such_option"):
        program(1.0)


@pytest.mark.parametrize(
    ("recipe", "program"),
    [
        ({"transfer": "Labels"}, "step"),
        ({"transfer": "Labels", "steps_per_call": "2"}, "steps"),
        ({**BY_TEACHER, "distiller": "CRD"}, "step"),
        ({**BY_TEACHER, "distiller": "SoftLogits", "teacher_views": 2}, "step"),
        ({"transfer": "Labels", "seeds": 2}, "step"),
    ],
    ids=["labels", "many", "memory", "bank", "seeds"],
)
def test_a_run_compiles_its_programs_once_and_in_a_thread(recipe, program, compiled, caplog, tmp_path):
    train({**RECIPE, **recipe, "train_path": str(tmp_path / "run")}, quiet=True)
    after = compiled()
    assert (after[program], after["init"]) == (1, 1), after
    for name in (program, "init"):
        record = next(r for r in caplog.records if f"Finished XLA compilation of jit({name})" in r.getMessage())
        assert record.threadName != threading.main_thread().name
