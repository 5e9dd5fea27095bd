"""evaluate.py measures an exported file by the file's own runtime, on the classes and sizes of the data."""

import dataclasses
import json

import numpy as np
import pytest

import data
import deploy
import evaluate
import pretrained
from configs import command
from deploy import export, exported, targets
from registry import DamagedFileError, UserError


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """tests/teacher as StableHLO, of normalised images and of pixels."""
    found = []
    for flags in ([], ["--with_preprocessing"]):
        found.append(tmp_path_factory.mktemp("exported") / "network")
        arguments = ["--param", "tests/teacher", "--to", "stablehlo", "--out", str(found[-1]), *flags]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(targets, "latency", lambda *_: 1.0)
            export.export(export.parser().parse_args(arguments))
    return found


def test_a_file_has_the_accuracy_of_its_weights(files, capsys, monkeypatch):
    monkeypatch.setattr(command, "prepare", lambda given: None)
    for file in files:
        evaluate.main(["--param", str(file)])
        assert f"CNN from {file} on Digits test (597 images), float32" in capsys.readouterr().out
        written = json.loads(file.with_name(f"{file.name}-evaluation-Digits.json").read_text())
        expected = pretrained.load("tests/teacher").info["test"]
        assert abs(written["top1"] - expected["top1"]) < 1e-6
        assert abs(written["nll"] - expected["nll"]) < 1e-4
    for flag in ("--explain", "--probe"):
        with pytest.raises(UserError, match=rf"{flag} has no effect on .*network: an exported file returns class"):
            evaluate.main(["--param", f"tests/teacher,{files[0]}", flag, "CAM" if flag == "--explain" else "knn"])


def test_a_file_answers_for_the_classes_of_the_data_at_its_own_size(files):
    few, file = data.load("Digits"), exported.load(str(files[0]))
    few = dataclasses.replace(few, test=few.test.part(np.arange(8)))
    expected = file.answers(few)
    named = dataclasses.replace(file, facts={**file.facts, "class_names": list("abcdefghij")})
    turned = dataclasses.replace(few, class_names=tuple("jihgfedcba"))
    np.testing.assert_array_equal(named.answers(turned), expected[:, ::-1])
    large = data.Split.of(few.test.images.repeat(2, axis=1).repeat(2, axis=2), few.test.labels)
    expected = deploy.load("tests/teacher").logits(large.images)
    np.testing.assert_allclose(file.answers(dataclasses.replace(few, test=large)), expected, atol=1e-3)
    with pytest.raises(UserError, match="has the classes"):
        named.answers(dataclasses.replace(few, class_names=tuple("klm")))


def test_another_file_is_refused_by_name(files, tmp_path):
    facts = json.loads(files[0].with_name("network.json").read_text())
    (tmp_path / "network").write_bytes(files[0].read_bytes())
    with pytest.raises(UserError, match=r"has no network\.json beside it, so it is no file of deploy\.export\.\nGive"):
        exported.load(str(tmp_path / "network"))
    for changed, error, message in (
        ({"format": "os:system"}, UserError, "lacks what evaluate.py needs"),
        ({"bytes": 1}, DamagedFileError, r"bytes; network\.json says 1"),
    ):
        (tmp_path / "network.json").write_text(json.dumps({**facts, **changed}))
        with pytest.raises(error, match=message):
            exported.load(str(tmp_path / "network"))
