"""Measures trained weights on a dataset's test split."""

from absl import flags

from registry import UserError
from training import cli

RECIPE = ["teacher_arch", "teacher_param", "dataset", "data_dir", "image_size"]

cli.define(*RECIPE, recipes=False)
flags.DEFINE_string("arch", "", "its network, where that is a module:attribute of your own")
flags.DEFINE_string("param", None, "what to measure: a run folder, or one with weights.safetensors + model.json")


def main() -> None:
    """Measures, prints and writes."""
    param, options = flags.FLAGS.param, cli.given(RECIPE)
    if not param:
        raise UserError("--param is needed: python evaluate.py --param runs/soft --dataset CIFAR10")
    cli.prepare_jax()
    import data
    import pretrained
    from training import evaluation, run_folder

    weights = pretrained.load(param)
    name = options.get("dataset", weights.info["dataset"])
    size = options.get("image_size", weights.info["image_shape"][0] if name == "ImageFolder" else 0)
    dataset = data.load(name, options.get("data_dir", ""), size)
    archs = flags.FLAGS.arch, options.get("teacher_arch", "")
    result = evaluation.measure(param, dataset, options.get("teacher_param", ""), *archs)
    units = {"top1": "%", "top5": "%", "ece": "%", "agreement": "%", "nll": "nats", "kl": "nats"}
    print(f"{weights.info['arch']} from {weights.folder} on {name} test ({len(dataset.test):,} images)")
    for key, value in result.items():
        print(f"{key:<10} {value:8.3f} {units[key]}")
    against = f"-against-{pretrained.load(options['teacher_param']).info['arch']}" if "kl" in result else ""
    path = weights.folder / f"evaluation-{name}{against}.json"
    try:
        run_folder.write_json(path, {**options, "dataset": name, "images": len(dataset.test), **result})
        print(f"Written to {path}")
    except OSError as error:
        raise UserError(f"Measured, but cannot write {path}: {error.strerror}.") from None


if __name__ == "__main__":
    cli.main(main, __doc__)
