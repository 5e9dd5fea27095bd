"""The recipe that the tests of this folder run, and the check that two runs are equal."""

import json
import os

import numpy as np
import pytest
from safetensors.numpy import load_file

# A memory of every example (CRD's), batch statistics (the network's), and steps so small that rounding does not grow.
RECIPE = {"teacher_param": "tests/teacher", "student_arch": "CNN", "distiller": "CRD", "train_epoch": 2}
RECIPE |= {"distiller_options": {"negatives": 64}, "batch_size": 200, "learning_rate": 1e-4, "log_every": 1}
RECIPE |= {"crop_pad": 1, "checkpoint_seconds": 0.0}
STEPS, STOPPED = 12, 5
# A network with dropout, and what strong recipes add.
STRONG = {**RECIPE, "student_arch": "tests.training.dropping_network:Dropping", "distiller": "SoftLogits"}
STRONG |= {"distiller_options": {}, "train_epoch": 1, "ema_weights": 0.9, "label_smoothing": 0.1}
STRONG |= {"random_erasing": 0.25, "trivialaugment": True}
# Sums over candidates of the whole batch, and an answer that no logits are.
DETECTOR = {"dataset": "tests.training.tiny_detectors:few", "transfer": "Labels"}
DETECTOR |= {
    "student_arch": "tests.training.tiny_detectors:TinyRetinaNet",
    "train_epoch": 1,
    "batch_size": 200,
    "learning_rate": 1e-4,
    "log_every": 1,
}
PATIENCE = 240.0  # seconds until a process counts as stuck


def environment():
    """That of the suite, without devices of its own choice."""
    kept = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    return {**kept, "JAX_PLATFORMS": "cpu", "KD_CPU_TUNING": "0"}


def rows(folder):
    """Of `metrics.jsonl`."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_same_curve(folder, expected, names=("",)):
    """Every number of every row within 1e-5 of the other run's, relatively, and so the final weights.

    Accuracies, AP and AR count images or boxes, and one that lies on the border may fall to either side: they are left
    out. A ReLU at its border is open or shut, which the norms of the gradient, and a term's share of them, show first.
    """
    for name in names:
        ours, theirs = rows(folder / name), rows(expected / name)
        assert [(r["kind"], r["step"]) for r in ours] == [(r["kind"], r["step"]) for r in theirs]
        for row, other in zip(ours, theirs, strict=True):
            assert row.keys() == other.keys()
            for key in row.keys() - {"kind", "top1", "top5", "ece", "agreement"}:
                if key.startswith(("AP", "AR_")):
                    continue
                near = 1e-3 if key == "gradient_norm" or key.startswith("share/") else 1e-5  # shares are of norms
                assert row[key] == pytest.approx(other[key], rel=near), (row["step"], key)
        weights = [load_file(path / name / "last" / "weights.safetensors") for path in (folder, expected)]
        assert weights[0].keys() == weights[1].keys()
        for key, value in weights[1].items():
            np.testing.assert_allclose(weights[0][key], value, rtol=1e-5, atol=1e-6, err_msg=key)
