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
    """PyTorch takes 4 s for a call, compiled 2; this library 1, and 1.6 for all of four seeds."""

    ended = 0

    def __init__(self, name, batch, threads, compiled=False, seeds=1, **options):
        ours = name == accelerator.OURS
        self.seconds = (1.6 if seeds == 4 else 1.0) if ours else (2.0 if compiled else 4.0)
        self.first = True

    def ask(self, name, *arguments):
        if name == "updates":
            self.first, first = False, self.first
            return 100.0 if first else self.seconds
        return {"devices": "1 x NVIDIA H200", "work": WORK}[name]

    def end(self):
        Side.ended += 1


def test_images_of_all_seeds_count_and_the_best_of_pytorch_is_the_measure(monkeypatch, capsys):
    monkeypatch.setattr(accelerator, "Side", Side)
    monkeypatch.setattr(accelerator.importlib.util, "find_spec", lambda name: True)
    accelerator.main([10], ["float32"], [1, 4], 3, 20)
    lines = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| 10 ")]
    assert {line[2]: (line[3], line[4]) for line in lines} == {
        "PyTorch": ("50", "0.50x"),
        "PyTorch channels_last": ("50", "0.50x"),
        "PyTorch torch.compile": ("100", "1.00x"),
        "kd-cookbook, 1 seed": ("200", "2.00x"),
        "kd-cookbook, 4 seeds": ("500", "5.00x"),
    }
    assert lines[3][5] == "0.04"  # 2 GFLOP an update of 10 images, 20 updates a second
    assert [line[6] for line in lines[2:]] == [" |", "20 % |", "50 % |"]  # 48 GB an update take 10 ms
    assert Side.ended == 5


def test_a_type_that_is_not_there_is_told():
    with pytest.raises(UserError, match="float16"):
        accelerator.main([10], ["float16"], [1], 1, 1)
