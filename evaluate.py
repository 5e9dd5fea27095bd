"""Measures trained weights on a dataset's test split."""

from absl import flags

from registry import UserError
from training import cli

RECIPE = ["teacher_arch", "teacher_param", "dataset", "data_dir", "image_size"]

cli.define(*RECIPE)
flags.DEFINE_string("arch", "", "its network, where that is a module:attribute of your own")
flags.DEFINE_string("param", None, "what to measure: a run folder, or one with weights.safetensors + model.json")


def main() -> None:
    """Measures, prints and writes."""
    param, explicit = flags.FLAGS.param, {n: flags.FLAGS[n].value for n in RECIPE if flags.FLAGS[n].present}
    config = cli.recipe(RECIPE) if flags.FLAGS["config"].present else explicit  # no defaults: the weights say their own
    if not param:
        raise UserError("--param is needed: python evaluate.py --param runs/soft --dataset CIFAR10")
    cli.prepare_jax()
    import data
    import pretrained
    from training import evaluation, run_folder

    weights = pretrained.load(param)
    name = config.get("dataset", weights.info["dataset"])
    size = config.get("image_size", weights.info["image_shape"][0] if name == "ImageFolder" else 0)
    dataset = data.load(name, config.get("data_dir", ""), size)
    result = evaluation.measure(
        param, dataset, config.get("teacher_param", ""), flags.FLAGS.arch, config.get("teacher_arch", "")
    )
    units = {"top1": "%", "top5": "%", "ece": "%", "agreement": "%", "nll": "nats", "kl": "nats"}
    print(f"{weights.info['arch']} from {weights.folder} on {name} test ({len(dataset.test):,} images)")
    for key, value in result.items():
        print(f"{key:<10} {value:8.3f} {units[key]}")
    path = weights.folder / f"evaluation-{name}.json"
    try:
        run_folder.write_json(path, {"dataset": name, "images": len(dataset.test), **config, **result})
        print(f"Written to {path}")
    except OSError as error:
        raise UserError(f"Measured, but cannot write {path}: {error.strerror}.") from None


if __name__ == "__main__":
    cli.main(main, __doc__)
