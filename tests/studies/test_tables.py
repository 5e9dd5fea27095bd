"""Tables of studies: their arithmetic, on runs whose numbers are known."""

import json
import math

import numpy as np
import pytest

from registry import UserError
from studies import all_methods, all_transfers, compare, demo, leaderboard

TOP1 = {
    "labels-alone": ([90.0, 92.0, 91.0], 2.0),
    "at": ([93.0, 94.0, 95.0], 3.0),
    "born-again": ([95.0, 93.0, 94.0], 4.0),
}


@pytest.fixture
def trained(monkeypatch):
    """`train` writes a finished run of three seeds at once; the run "defect" raises, "mistake" is the user's."""
    calls = []

    def train(recipe, quiet=False):
        calls.append(recipe)
        path = compare.pathlib.Path(recipe["train_path"])
        if path.name == "defect":
            raise ZeroDivisionError("division by zero")
        if path.name == "mistake":
            raise UserError("A mistake.\nThe fix.")
        last, seconds = TOP1[path.name]
        for seed, top1 in enumerate(last):
            folder = path / f"s{seed}"
            folder.mkdir(parents=True)
            beside = {"teacher/top1": top1 + 1} if path.name == "born-again" else {}
            agreement = {} if path.name == "labels-alone" else {"agreement": top1 - 1}
            rows = [
                {"kind": "train", "loss": 1.0},
                {"kind": "test", "epoch": 1, "top1": 50.0},
                {"kind": "test", "epoch": 2, "top1": top1, **beside, **agreement},
            ]
            (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            numbers = {"parameters": 1234, "seconds": seconds, "steps": 10}
            own = {"last": {"epoch": 2}, "best": {"epoch": 2, "top1": top1 + 0.5}, **numbers}
            (folder / "summary.json").write_text(json.dumps(own))
        whole = {"last": {"epoch": 2}, "best": {"epoch": 2}, **numbers, "seconds": 3 * seconds, "seeds": [0, 1, 2]}
        (path / "summary.json").write_text(json.dumps(whole))

    monkeypatch.setattr(compare, "train", train)
    return calls


ENTRIES = {"Labels alone": {"transfer": "Labels"}, "AT": {"distiller": "AT"}, "Born again": {"transfer": "BornAgain"}}


def test_a_leaderboard_pairs_the_seeds_and_counts_steps(trained, tmp_path, capsys):
    entries = {**ENTRIES, "Defect": {}, "Mistake": {}}
    rows, failed = leaderboard.run(tmp_path, {"seeds": 3}, entries)
    assert failed == {"Defect": "ZeroDivisionError: division by zero", "Mistake": "A mistake."}
    assert trained[1] == {"seeds": 3, "distiller": "AT", "train_path": str(tmp_path / "at")}
    leaderboard.write(tmp_path, "Title", rows, failed, unit="AT")
    text = (tmp_path / "leaderboard.md").read_text()
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    assert table[0][1:] == [
        "last top-1", "against labels alone", "best top-1, chosen on test", "step / AT", "epochs",
        "beside it, last top-1",
    ]  # fmt: skip
    # differences (3, 2, 4): mean 3, half-width t(0.975, 2) * 1 / sqrt(3); (5, 1, 3): deviation 2
    assert table[2] == ["AT", "94.00 ± 1.00", "+3.00 ± 2.48", "94.50 ± 1.00", "1.00", "2", ""]
    assert table[3] == [
        "Born again",
        "94.00 ± 1.00",
        "+3.00 ± 4.97",
        "94.50 ± 1.00",
        "1.33",
        "2",
        "teacher 95.00 ± 1.00",
    ]
    assert table[4][:4] == ["Labels alone", "91.00 ± 1.00", "", "91.50 ± 1.00"]
    assert [row[1] for row in table[5:]] == ["failed: ZeroDivisionError: division by zero", "failed: A mistake."]
    saved = {row["name"]: row for row in json.loads((tmp_path / "leaderboard.json").read_text())}
    assert saved["AT"]["last"] == [93.0, 94.0, 95.0]
    assert saved["AT"]["seconds_per_step"] == pytest.approx(0.3)
    assert "FAILED Defect" in capsys.readouterr().err


def test_a_signal_ends_a_leaderboard(monkeypatch, tmp_path):
    class Interrupted(UserError):
        exit_code = 75

    def train(recipe, quiet=False):
        raise Interrupted("Saved.")

    monkeypatch.setattr(compare, "train", train)
    with pytest.raises(Interrupted):
        leaderboard.run(tmp_path, {}, ENTRIES)


def test_the_interval_of_one_pair_is_not_known():
    mean, half = leaderboard.interval(np.array([1.5]))
    assert mean == 1.5
    assert math.isnan(half)


def test_the_table_of_the_demo(trained, tmp_path, monkeypatch):
    rows = compare.run_all(tmp_path, {}, {name: ENTRIES[name] for name in ("Labels alone", "AT")})
    monkeypatch.setattr(compare, "agreement", lambda row, recipe: row.last("top1") - 10)
    lines = compare.table(rows[1], rows, {}).splitlines()
    assert lines[0] == "|  | last top-1 | best top-1, chosen on test | agreement | parameters | seconds |"
    assert lines[2] == "| AT | 94.00 ± 1.00 | 94.50 ± 1.00 |  | 1,234 | 3.0 |"
    assert lines[3] == "| Labels alone | 91.00 ± 1.00 | 91.50 ± 1.00 | 81.00 ± 1.00 | 1,234 | 2.0 |"
    compare.curves(rows, tmp_path / "curves.png", "title", 99.0)
    assert (tmp_path / "curves.png").stat().st_size > 1000


@pytest.mark.slow
def test_agreement_is_logged_or_asked_of_the_weights(trained, tmp_path):
    (logged,) = compare.run_all(tmp_path, {}, {"AT": {}})
    assert list(compare.agreement(logged, {})) == [92.0, 93.0, 94.0]
    (alone,) = compare.run_all(tmp_path, {}, {"Labels alone": {}})
    shipped = "pretrained/resnet20_digits"
    asked = compare.dataclasses.replace(alone, folders=[shipped, "tests/teacher"])
    recipe = {"dataset": "Digits", "teacher_param": shipped}
    same, other = compare.agreement(asked, recipe)
    assert same == 100.0
    assert 50 < other < 100


def test_entries_have_their_options():
    methods = all_methods.entries(["AT", "DKD", "AB", "MLKD"])
    assert methods["Labels alone"] == {"transfer": "Labels"}
    assert methods["DKD"]["distiller_options"] == {"warmup_epochs": 1}
    assert methods["MLKD"]["learning_rate"] == 0.025
    (simkd,) = (own for name, own in all_methods.entries(["SimKD"], "VGG8").items() if name == "SimKD")
    assert (simkd["student_arch"], simkd["student_options"]["backbone"]) == ("Projected", "VGG8")
    assert simkd["student_options"]["backbone_options"] == all_methods.STUDENTS["VGG8"]
    assert simkd["student_options"]["width"] == 128
    trained = {"teacher_arch": "ResNet20", "teacher_param": "somewhere"}
    strategies = all_transfers.entries(["Labels", "Offline", "Mutual", "EMA", "CSKD"], trained, "ResNet8")
    assert strategies["Offline"] == {"transfer": "Offline", **trained}
    assert strategies["Mutual"] == {"transfer": "Mutual", "teacher_arch": "ResNet8"}
    assert strategies["EMA, decay 0.95"]["transfer_options"] == {"decay": 0.95}
    assert strategies["CSKD"] == {"transfer": "CSKD"}


def test_the_demo_has_settings_tuned_for_its_data_and_ends_with_the_next_command(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(compare, "teach", lambda root, recipe: (recipe, "teacher"))
    monkeypatch.setattr(compare, "run_all", lambda root, recipe, methods: [])
    monkeypatch.setattr(compare, "report", lambda *_: None)
    reported = []
    monkeypatch.setattr(demo.report, "main", lambda runs, out: reported.append(([run.name for run in runs], out.name)))
    demo.main(tmp_path)
    assert reported == [(["labels-alone", "softlogits", "at", "teacher"], "report")]
    assert demo.METHODS["AT"]["distiller_options"]["weight"] < 1000
    assert "python train_w_kd.py --distiller" in capsys.readouterr().out.splitlines()[-1]
