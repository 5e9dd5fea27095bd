"""ONNX files of quantised weights store integers, and answer as the fake-quantised network does."""

import dataclasses
import json

import numpy as np
import onnx
import pytest

import data
import pretrained
from deploy import derived, export, graph, quantize
from deploy.onnx_format import Onnx
from registry import UserError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=[8, 4])
def folder(request, tmp_path_factory):
    """tests/teacher, quantised."""
    out, weights = tmp_path_factory.mktemp("quantised") / "weights", pretrained.load("tests/teacher")
    images = quantize.some(data.load("Digits").train, 64)
    info, *_ = quantize.quantize(weights, images, request.param)
    derived.write(out, weights.variables, info)
    return out


def test_the_file_has_integers_alone_and_answers_as_the_network(folder, tmp_path):
    file = tmp_path / "network.onnx"
    args = export.parser().parse_args(["--param", str(folder), "--to", "onnx", "--out", str(file)])
    facts = export.export(args)
    assert facts["parity"]["logits"]["relative"] < 2e-2
    assert facts["arithmetic"].startswith("stored as integers, multiplied as float32: weights of")
    bits = pretrained.load(folder).info["options"]["quantize"]["bits"]
    kind = onnx.TensorProto.INT8 if bits == 8 else onnx.TensorProto.INT4
    model = onnx.load(file)
    kernels = [x for x in model.graph.initializer if x.name.endswith("_integers")]
    assert [x.data_type for x in kernels] == [kind] * 5
    assert sum(len(x.raw_data) for x in kernels) == sum(np.prod(x.dims) for x in kernels) * bits / 8
    others = [x for x in model.graph.initializer if x not in kernels and x.data_type == onnx.TensorProto.FLOAT]
    assert max(np.prod(x.dims) for x in others) <= 128  # scales and biases
    assert json.loads((tmp_path / "network.onnx.json").read_text())["arithmetic"] == facts["arithmetic"]


def test_ranges_of_images_and_kernels_in_another_order_are_refused(folder, tmp_path):
    weights = pretrained.load("tests/teacher")
    derived.write(tmp_path / "trained", weights.variables, derived.info_of(weights, {"quantize": "int8"}))
    with pytest.raises(UserError, match=r"need fixed ranges\.\nMake them: python -m deploy.quantize"):
        graph.build(pretrained.load(tmp_path / "trained"), integers="fixed")
    with pytest.raises(UserError, match=r"need a range for each image\.\nMake them: .* --calibrate 0 --out other"):
        graph.build(pretrained.load(folder), integers="image")
    turned = graph.build(pretrained.load(folder), integers="fixed")
    turned = dataclasses.replace(turned, layers=(turned.layers[0], *turned.layers[:0:-1]))
    with pytest.raises(UserError, match="Conv number 1 does not have the kernel of classifier"):
        Onnx().write(turned)
