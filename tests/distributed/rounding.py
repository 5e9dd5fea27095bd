"""Shows how far one and several devices drift apart: the losses of SoftLogits with Digits' default recipe, by step.

    python rounding.py COUNT float32|float64 EPOCHS

With float64 every "float32" of the program is float64, so only the order of the sums differs. Prints JSON.
"""

import json
import os
import pathlib
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent.parent))


def main(count: int, kind: str, epochs: int) -> list[float]:
    """The loss of every update."""
    import jax

    jax.config.update("jax_num_cpu_devices", count)
    if kind == "float64":
        jax.config.update("jax_enable_x64", True)
        jax.numpy.float32 = jax.numpy.float64  # before the library and Flax take their defaults from it
    import models
    import pretrained
    from configs.resolve import plain, resolve
    from training import train as run

    def wider(recipe, typed):
        config, notes = resolve(recipe, typed)
        return type(config)({**plain(config), "dtype": kind}), notes

    save = pretrained.save

    def narrower(folder, variables, info):  # files of weights are float32
        save(folder, jax.tree.map(lambda x: x.astype("float32"), variables), info)

    models.xla_cpu.prepare()
    run.resolve, pretrained.save = wider, narrower
    with tempfile.TemporaryDirectory() as folder:
        recipe = {"distiller": "SoftLogits", "train_epoch": epochs, "log_every": 1, "eval_every": epochs}
        run.train({**recipe, "checkpoint_seconds": 1e9, "train_path": f"{folder}/run"}, quiet=True)
        lines = [json.loads(line) for line in pathlib.Path(folder, "run", "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["kind"] == "train"]


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))))
    sys.stdout.flush()
    os._exit(0)
