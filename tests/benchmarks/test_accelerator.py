"""The table beside PyTorch on a GPU: its arithmetic, with sides whose times are known."""

import math

import pytest

from benchmarks import accelerator
from registry import UserError

WORK = {"flops": 2e9, "bytes": 48e9}


@pytest.mark.parametrize(
    ("device", "dtype", "work", "expected"),
    [
        ("1 x NVIDIA H200", "float32", {"flops": 494e9, "bytes": 1e9}, 1e-3),
        ("1 x NVIDIA H200", "bfloat16", {"flops": 494e9, "bytes": 4.8e9}, 1e-3),
        ("1 x NVIDIA A100-SXM4-80GB", "float32", {"flops": 312e9, "bytes": math.nan}, 2e-3),
    ],
    ids=["computing", "memory", "memory not known"],
)
def test_the_roofline_is_the_longer_of_two_times(device, dtype, work, expected):
    assert accelerator.roofline(device, dtype, work) == pytest.approx(expected)


def test_a_device_without_known_peaks_has_no_roofline():
    assert math.isnan(accelerator.roofline("1 x cpu", "float32", WORK))


class Side:
    """PyTorch takes 4 s for a call, compiled 2; this library 1, and 1.6 for all of four seeds. Eight do not fit."""

    running = 0

    def __init__(self, name, batch, threads, compiled=False, seeds=1, **options):
        if seeds == 8:
            raise UserError("A side's process ended; its output is above.")
        Side.running += 1
        self.ours = ours = name == accelerator.OURS
        self.seconds = (1.6 if seeds == 4 else 1.0) if ours else (2.0 if compiled else 4.0)
        self.first = True

    def ask(self, name, *arguments):
        if name == "updates":
            self.first, first = False, self.first
            return 100.0 if first else self.seconds
        return {"devices": "1 x NVIDIA H200" if self.ours else self.torch, "work": WORK}[name]

    torch = "NVIDIA H200"

    def end(self):
        Side.running -= 1


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(accelerator, "Side", Side)
    monkeypatch.setattr(accelerator, "torch_is_here", lambda: True)
    yield monkeypatch
    assert Side.running == 0


def test_images_of_all_seeds_count_and_the_best_of_pytorch_is_the_measure(fake, capsys):
    accelerator.main([10], ["float32"], [1, 4, 8], 3, 20)
    said = capsys.readouterr()
    lines = [line.split(" | ") for line in said.out.splitlines() if line.startswith("| 10 ")]
    assert "kd-cookbook, 8 seeds is left out" in said.err
    assert {line[2]: (line[3], line[4]) for line in lines} == {
        "PyTorch": ("50", "0.50x"),
        "PyTorch channels_last": ("50", "0.50x"),
        "PyTorch torch.compile": ("100", "1.00x"),
        "kd-cookbook, 1 seed": ("200", "2.00x"),
        "kd-cookbook, 4 seeds": ("500", "5.00x"),
    }
    assert lines[3][5] == "0.04"  # 2 GFLOP an update of 10 images, 20 updates a second
    assert [line[6] for line in lines[2:]] == [" |", "20 % |", "50 % |"]  # 48 GB an update take 10 ms


def test_sides_on_devices_of_two_kinds_are_not_compared(fake):
    fake.setattr(Side, "torch", "cpu")
    with pytest.raises(UserError, match="PyTorch on cpu"):
        accelerator.main([10], ["float32"], [1], 1, 1)


def test_an_unknown_type_raises():
    with pytest.raises(UserError, match="float16"):
        accelerator.main([10], ["float16"], [1], 1, 1)
