"""Runs in the environment of LiteRT, which has none of this library's packages: converts and measures.

python litert_tool.py convert IN.mlir OUT.tflite INPUT OUTPUT,OUTPUT
python litert_tool.py quantise IN.tflite OUT.tflite LAYERS.npz
python litert_tool.py measure IN.tflite IN.npz OUT.npz INPUT 1,32
"""

import pathlib
import sys

import numpy as np
from clock import latency  # beside this file


def convert(source: str, target: str, name: str, outputs: str) -> None:
    """Writes a .tflite file from StableHLO as text."""
    from litert_converter import converter_api_ext as api
    from litert_converter.mlir import ir, passmanager

    context = ir.Context()
    api.prepare_mlir_context(context)
    with context:
        module = ir.Module.parse(pathlib.Path(source).read_text())
        api.run_convert_to_tfl_passes(module, passmanager.PassManager(), api.ConvertToTFLConfig())
        api.set_signature(module.operation, "serving_default", [name], outputs.split(","))
        pathlib.Path(target).write_bytes(api.export_flatbuffer_to_bytes(module.operation))


def quantise(source: str, target: str, layers: str) -> None:
    """Writes a .tflite file again, with the kernels of `layers` (see `litert_integers`) as integers."""
    from litert_integers import with_integers  # beside this file

    with np.load(layers) as arrays:
        pathlib.Path(target).write_bytes(with_integers(pathlib.Path(source).read_bytes(), dict(arrays)))


def measure(source: str, images: str, target: str, name: str, batches: str) -> None:
    """Runs a .tflite file of batch 1 on images, one by one. Writes the outputs and the times in milliseconds."""
    from ai_edge_litert.interpreter import Interpreter

    images = np.load(images)["images"]
    runner = Interpreter(model_path=source, num_threads=1).get_signature_runner("serving_default")

    def run(images):
        found = [runner(**{name: image[None]}) for image in images]
        return {output: np.concatenate([one[output] for one in found]) for output in found[0]}

    sizes = [int(size) for size in batches.split(",") if size]
    times = [latency(run, np.resize(images, (size, *images.shape[1:]))) for size in sizes]
    np.savez(target, **run(images), milliseconds=np.asarray(times))


if __name__ == "__main__":
    {"convert": convert, "quantise": quantise, "measure": measure}[sys.argv[1]](*sys.argv[2:])
