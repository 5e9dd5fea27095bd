"""Exports trained weights to a file that runs without this library.

    python -m deploy.export --param runs/soft --to onnx --out soft.onnx
    python -m deploy.export --param runs/soft --to stablehlo --out soft.stablehlo --with_preprocessing
    python -m deploy.export --param runs/soft --to litert --out soft.tflite --taps embedding

The file takes normalised images [B, H, W, C] float32 and returns logits. With --with_preprocessing it takes pixels
[B, H, W, C] uint8 and returns probabilities. A detector's file returns detections where the format can hold the
non-maximum suppression (stablehlo), else the class scores and boxes of all anchors. Before the file is written, its own
runtime answers 64 images of the data set, or 8 of a detector's. If an answer differs from the library's by more than
0.1 %, nothing is written. Beside the file, FILE.json has the names of the classes, the form of the input, and the
report.

Quantised weights become integers in an ONNX file, if they have fixed ranges (`deploy.quantize`), and in a LiteRT file,
if each image has its own range (`--student_quantize`, `deploy.quantize --calibrate 0`). A number at the border of two
integers may go either way, so their answers may differ by 2 %.
"""

import json
import os
import pathlib

import numpy as np

from configs import command
from configs.command import names_in
from data.boxed import FILL
from deploy.arguments import Parser, file_to_write
from deploy.detector import apart
from deploy.targets import Measured, Target, registry
from models import quantization
from registry import UserError

MEANING = {  # of a detector's outputs, by the first one's name
    "detections": "rows x1, y1, x2, y2, score, class, by falling score, in pixels of the input; class -1: no object",
    "logits": "class scores before the sigmoid, and boxes x1, y1, x2, y2 in pixels of the input, of all anchors: "
    "this format has no non-maximum suppression, so the caller suppresses",
}


def parser() -> Parser:
    """Defines the flags."""
    p = Parser("deploy.export", __doc__)
    p.add_argument("--to", required=True, metavar="FORMAT", help=", ".join(registry.names()))
    p.add_argument("--out", required=True, metavar="FILE", help="the file to write")
    p.add_argument("--force", action="store_true", help="replace FILE")
    p.add_argument("--with_preprocessing", action="store_true", help="pixels in, probabilities out")
    p.add_argument("--taps", default="", help="features that the file returns, too, such as stage1,embedding")
    p.add_argument("--dataset", help="compare on its test images; default: the data of the training")
    p.add_argument("--data_dir", help="the folder of that data set")
    p.add_argument("--images", default="", metavar="DIR", help="compare on the pictures of a folder instead")
    p.add_argument("--json", action="store_true", help="print FILE.json in the place of the report")
    return p


def real_images(network, dataset: str | None, data_dir: str | None, folder: str) -> np.ndarray:
    """Pictures of a folder or of a test split, evenly spread, at most as many as the network sees in one call.

    Args:
        network: what `deploy.load` returned; it says which form the images have.
        dataset, data_dir: as the flags; None where they are not given.
        folder: of pictures; empty: the data set's test split.

    Returns:
        [N, H, W, C] uint8.

    Raises:
        UserError: no such data, data of other channels, or no picture that can be read.
    """
    from deploy.predict import pictures
    from pretrained.players import dataset_of

    if folder:
        paths = pictures(folder, "--images")
        _, images, _ = next(network.read([paths[i] for i in _spread(len(paths), network.batch)]))
        if not len(images):
            raise UserError(f"--images {folder}: none of its pictures can be read.")
        return images
    given = {"dataset": dataset, "data_dir": data_dir}
    data = dataset_of(network.weights.info, {key: value for key, value in given.items() if value is not None})
    images = data.test.part(_spread(len(data.test), network.batch)).images
    return network.fit(images)


def _spread(count: int, most: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, min(most, count)).round().astype(int))


def compare(expected: dict[str, np.ndarray], found: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """For each output its largest difference, and this difference relative to the largest absolute value.

    "detections" are compared object by object (`deploy.detector.apart`).
    """
    result = {}
    for name, own in expected.items():
        largest = max(float(np.abs(own).max()), 1e-30)
        if name == "detections":
            difference = apart(own, found[name]) * largest
        else:
            difference = float(np.max(np.abs(own - found[name]))) if own.shape == found[name].shape else float("inf")
        result[name] = {"difference": difference, "relative": difference / largest}
    return result


def description(name, weights, graph, measured: Measured, size: int, parity: dict, count: int) -> dict:
    """What FILE.json says: how to call the file of the format `name`, and the report."""
    info, target = weights.info, registry.get(name)
    pixels = graph.dtype == "uint8"
    detector = {"detections", "boxes"} & set(graph.outputs[:2])
    return {
        "input": {
            "name": graph.input,
            "shape": [target.batch or "batch", *graph.shape],
            "type": graph.dtype,
            "values": "pixels from 0 to 255" if pixels else "(pixel / 255 - mean) / std",
            **({} if pixels else {"mean": list(info["mean"]), "std": list(info["std"])}),
            "resize": info.get("resize", 0),
            "interpolation": info.get("interpolation") or "bilinear",
            **({"letterbox": {"long_side": graph.shape[0], "fill": list(FILL)}} if detector else {}),
        },
        "outputs": {name: [target.batch or "batch", *measured.outputs[name].shape[1:]] for name in graph.outputs},
        **({"meaning": MEANING[graph.outputs[0]]} if detector else {}),
        "class_names": list(info["class_names"]),
        "arithmetic": quantization.arithmetic(info.get("options", {}), target.arithmetic),
        "format": name,
        "bytes": size,
        "runtime": measured.runtime,
        "milliseconds": {str(batch): round(time, 3) for batch, time in measured.milliseconds.items()},
        "images": count,
        "parity": parity,
        "weights": {
            "arch": info["arch"],
            "options": info.get("options", {}),
            "dataset": info["dataset"],
            "sha256": weights.sha256,
        },
    }


def report(out: pathlib.Path, facts: dict) -> str:
    """The facts as lines."""
    from files import size_text

    lines = [f"{facts['weights']['arch']} written to {out} ({size_text(facts['bytes'])}), described in {out}.json"]
    lines += [f"takes      {facts['input']['name']} {facts['input']['shape']} {facts['input']['type']}"]
    lines += [f"meaning    {facts['meaning']}"] if "meaning" in facts else []
    lines += [f"computes   {facts['arithmetic']}"] if "quantize" in facts["weights"]["options"] else []
    for name, shape in facts["outputs"].items():
        parity = facts["parity"][name]
        lines.append(
            f"returns    {name} {shape}; differs from the library by {parity['difference']:.1e}, "
            f"{parity['relative']:.1e} of the largest, on {facts['images']} images"
        )
    times = ", ".join(f"{time:.2f} ms for {batch}" for batch, time in facts["milliseconds"].items())
    return "\n".join([*lines, f"latency    {times} images ({facts['runtime']}, {os.cpu_count()} cores)"])


def export(args) -> dict:
    """Exports, checks and writes. Returns what FILE.json says.

    Raises:
        UserError: nothing is written; the message says why.
    """
    import jax

    import deploy
    import files
    from deploy import graph as graphs

    out = file_to_write("--out", args.out)
    if out.exists() and not args.force:
        raise UserError(f"--out {out} exists already; choose another, or replace it with --force.")
    target: Target = registry.get(args.to)()
    network = deploy.load(args.param, args.arch)
    weights, player, variables = network.weights, network.player, network.variables
    how = {"plain": target.plain, "integers": target.integers, "suppression": target.suppression}
    graph = graphs.build(weights, args.arch, args.with_preprocessing, names_in(args.taps), **how)
    images = real_images(network, args.dataset, args.data_dir, args.images)
    pixels = images / np.float32(255)
    given = images if args.with_preprocessing else (pixels - np.float32(player.mean)) / np.float32(player.std)
    content = target.write(graph)
    measured = target.measure(content, graph, given)
    names, answers = graphs.answers_of(player.model, args.with_preprocessing, target.suppression)

    @jax.jit
    def own(variables, pixels):
        outputs, _ = player.forward(variables, pixels)
        named = {**outputs.features, **dict(zip(names, answers(outputs), strict=True))}
        return {name: named[name] for name in graph.outputs}

    expected = jax.device_get(own(variables, pixels))
    if "detections" in expected and (expected["detections"][..., 5] < 0).all():
        raise UserError(
            f"Nothing is written: the network finds nothing in {len(images)} images, so nothing can be compared.\n"
            "Compare on pictures of its objects: --images DIR"
        )
    parity = compare(expected, measured.outputs)
    worst = max(parity, key=lambda name: parity[name]["relative"])
    tolerance = target.tolerance["quantize" in weights.info.get("options", {})]
    if not parity[worst]["relative"] <= tolerance:  # not <=: a NaN is refused, too
        raise UserError(
            f"Nothing is written: '{worst}' of the {args.to} file differs from the library's by "
            f"{parity[worst]['relative']:.1e} of the largest value on {len(images)} images; {tolerance:g} is allowed.\n"
            "Take another format: --to " + " or ".join(name for name in registry.names() if name != args.to)
        )
    facts = description(args.to, weights, graph, measured, len(content), parity, len(images))
    out.parent.mkdir(parents=True, exist_ok=True)
    files.write_json(out.with_name(out.name + ".json"), facts)
    files.write_whole(out, content)
    return facts


def main(argv: list[str]) -> None:
    """Exports, and prints the report."""
    args = parser().parse_args(argv)
    registry.check(args.to)
    if args.images and (args.dataset or args.data_dir):
        raise UserError("--images takes the place of a data set: leave --dataset and --data_dir out.")
    command.tune()
    facts = export(args)
    print(json.dumps(facts, indent=2) if args.json else report(pathlib.Path(args.out), facts))


if __name__ == "__main__":
    command.run(main)
