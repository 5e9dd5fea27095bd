"""An update compiled for a target that is not here. What a compiler says needs the extra `aot`: `make aot`."""

import types

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

import train_teacher
import train_w_kd
from configs.command import Command
from configs.resolve import resolve
from registry import UserError
from studies import stand_ins, targets
from studies.hlo import Program
from training.builder import Builder
from training.devices import here

SMALL = {"teacher_param": "tests/teacher", "student_arch": "CNN", "train_epoch": 1, "batch_size": 100}
needs_libtpu = pytest.mark.skipif(
    not targets.compiler_is_here("tpu"), reason="the TPU's compiler is not installed; `make aot` installs it"
)


def silent(line):
    del line


@pytest.mark.slow
@pytest.mark.parametrize("own", [{"distiller": "CRD"}, {"distiller": "SoftLogits", "teacher_views": 2}], ids=str)
def test_the_shapes_are_those_of_a_runs_arguments(own, tmp_path):
    builder = Builder(resolve({**SMALL, **own})[0], silent)
    shared = builder.shared(tmp_path)
    (replica,) = builder.replicas(shared)
    found = targets.arguments(builder, builder.update(builder.strategy))
    real = replica.state, replica.totals, replica.split
    assert jax.tree.structure(found) == jax.tree.structure(real)
    for shape, array in zip(jax.tree.leaves(found), jax.tree.leaves(real), strict=True):
        assert (shape.shape, shape.dtype) == (array.shape, array.dtype)


def test_a_stand_in_has_shapes_and_no_images(tmp_path):
    dataset = stand_ins.cifar100(image_size=8)
    assert (len(dataset.train), dataset.image_shape, dataset.num_classes) == (50_000, (8, 8, 3), 100)
    with pytest.raises(UserError, match="cifar100"):
        dataset.train.images  # noqa: B018  # reads them
    folder = stand_ins.weights(tmp_path / "teacher", "CNN", "studies.stand_ins:cifar10")
    config, _ = resolve({**SMALL, "dataset": "studies.stand_ins:cifar10", "teacher_param": folder})
    builder = Builder(config, silent)
    assert builder.strategy.frozen["teacher"]["params"]["classifier"]["kernel"].shape[-1] == 10


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v9:2x2", "Unknown target 'v9'"),
        ("v5e", "A target that exists is v5e:2x2"),
        ("h200:2", "A target that exists is h200"),
    ],
)
def test_a_target_that_does_not_exist_is_told(name, message, monkeypatch):
    monkeypatch.setattr(targets, "compiler_is_here", lambda platform: True)
    with pytest.raises(UserError, match=message):
        targets.Target(name).devices()


@pytest.mark.parametrize(("name", "extra"), [("v5e:2x4", "aot"), ("h200", "cuda13")])
def test_without_its_compiler_a_command_says_what_to_install(name, extra, monkeypatch):
    monkeypatch.setattr(targets, "compiler_is_here", lambda platform: False)
    for program in (train_w_kd, train_teacher):
        with pytest.raises(UserError, match=rf"{name}.*\[{extra}\]") as raised:
            program.main(["--compile_for", name])
        assert raised.value.exit_code == 2


def test_flags_that_choose_devices_are_refused():
    with pytest.raises(UserError, match="--hosts and --compile_for"):
        targets.main(Command({}, (), {"hosts": "auto", "gpu_id": "", "compile_for": "v5e:2x4"}))


def compiled(cycles=1_500_000, memory=10**9):
    program = types.SimpleNamespace(cycles=cycles, collectives={"all-reduce": {"count": 3, "bytes": 2_000_000}})
    sizes = {"arguments": memory, "temporaries": 5 * 10**8, "outputs": 0, "code": 0}
    return targets.Compiled(targets.Target("v5e:2x4"), 8, 512, 30.0, program, sizes, {}, 1)


def test_the_report_has_memory_speed_and_collectives():
    lines = targets.report(compiled())
    assert "1.5 GB a chip of 17.2 GB, 8.7 %" in lines[1]
    assert "513,021 images/s" in lines[2]  # 512 images in 1.5 million of 1.503 billion cycles a second
    assert lines[3] == "Collectives of an update: 3 all-reduce of 2.0 MB."


def test_a_program_that_does_not_fit_is_an_error():
    targets.check_fits(compiled())
    with pytest.raises(UserError, match=r"needs 20\.5 GB .* which has 17\.2 GB"):
        targets.check_fits(compiled(memory=20 * 10**9))


def test_a_compilers_message_about_memory_becomes_a_line():
    error = RuntimeError("RESOURCE_EXHAUSTED: ... Used 17.50G of 15.75G hbm. Exceeded hbm capacity by 1.75G.")
    assert targets._reason(error).startswith("it needs 17.50G of memory on a chip, which has 15.75G.")


def lowered(devices, **own):
    recipe = {"transfer": "Labels", "dataset": "Shapes", "student_arch": "CNN", "batch_size": 64}
    config, _ = resolve({**recipe, **own}, (), devices.count)
    builder = Builder(config, silent, devices)
    update = builder.update(builder.strategy)
    return targets.lower(update, targets.arguments(builder, update), config.seeds)


def test_a_program_for_a_target_is_not_kept_in_jaxs_cache(tmp_path):
    own = {"jax_compilation_cache_dir": str(tmp_path), "jax_persistent_cache_min_compile_time_secs": 0.0}
    before = {name: getattr(jax.config, name) for name in own}

    def kept(number):
        jax.jit(lambda x: x + number).lower(1.0).compile()
        return len(list(tmp_path.iterdir()))

    try:
        for name, value in own.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        first = kept(1.5)
        with targets.compiled_anew():
            assert kept(2.5) == first
        assert kept(3.5) > first > 0
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()


@needs_libtpu
@pytest.mark.slow
def test_an_update_for_eight_chips_copies_no_data_and_has_few_collectives():
    """One all-reduce for the two statistics of each of the four batch norms, one back, and those of the gradients."""
    program = lowered(targets.Target("v5e:2x4").devices())
    assert "optimization_barrier" not in program.as_text()  # a CPU's word
    with targets.compiled_anew():
        found = Program(program.compile().as_text())
    assert found.loop
    assert found.over(2400 * 32 * 32 * 3) == []
    assert 0 < found.entry_cycles < found.cycles
    assert found.collectives.keys() == {"all-reduce"}
    assert found.collectives["all-reduce"]["count"] <= 12


@needs_libtpu
@pytest.mark.slow
def test_batch_norms_with_the_statistics_of_each_chip_exchange_nothing():
    """What is left: the number of labels, and the gradients with the statistics that move the running ones."""
    program = lowered(targets.Target("v5e:2x4").devices(), batch_norm_chips=1)
    with targets.compiled_anew():
        found = Program(program.compile().as_text())
    assert found.collectives.keys() == {"all-reduce"}
    assert found.collectives["all-reduce"]["count"] <= 3


@pytest.mark.slow
def test_seeds_side_by_side_and_single_updates_are_lowered_too():
    text = lowered(here(), seeds=2, stack_seeds="yes", steps_per_call="5").as_text()
    assert "tensor<2x3x3x3x" in text  # kernels of two seeds
    assert "stablehlo.while" in text
    assert "stablehlo.while" not in lowered(here(), crop_pad=0, flip="no").as_text()
