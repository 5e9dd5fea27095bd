"""Measures trained weights on a dataset's test split."""

from absl import flags

from registry import UserError
from training import cli

RECIPE = ["teacher_arch", "teacher_param", "dataset", "data_dir", "image_size"]
UNITS = {"top1": "%", "top5": "%", "ece": "%", "agreement": "%", "nll": "nats", "kl": "nats"}

cli.define(*RECIPE, recipes=False)
flags.DEFINE_string("arch", "", "its network, where that is a module:attribute of your own")
flags.DEFINE_string("param", None, "what to measure: a run folder, or one with weights.safetensors + model.json")
flags.DEFINE_string("explain", "", "also how faithful these maps are: GradCAM,CAM; --param may be several runs")
flags.DEFINE_string("baseline", "", "with --explain: runs by labels, one for each of --param, to compare with")
flags.DEFINE_integer("explain_images", 1000, "with --explain: at most so many test images; 0: all")


def main() -> None:
    """Measures, prints and writes."""
    params, options = _list("param"), cli.given(RECIPE)
    if not params:
        raise UserError("--param is needed: python evaluate.py --param runs/soft --dataset CIFAR10")
    maps, baselines = _list("explain"), _list("baseline")
    if not maps and flags.FLAGS["explain_images"].present:
        raise UserError("--explain_images counts images for maps: add --explain GradCAM, or leave it out.")
    if not maps and (len(params) > 1 or baselines):
        raise UserError("Several --param, and --baseline, are compared by their maps: add --explain GradCAM.")
    cli.prepare_jax()
    import pretrained
    from training import evaluation, run_folder

    if maps:
        from studies import explaining

        explaining.check_maps(maps)
    all_weights = [pretrained.load(param) for param in params]
    dataset = evaluation.dataset_of(all_weights[0].info, options)
    name = dataset.name
    teacher, archs = options.get("teacher_param", ""), (flags.FLAGS.arch, options.get("teacher_arch", ""))
    other = pretrained.load(teacher) if teacher else None
    against = f"-against-{other.info['arch']}-{other.sha256[:8]}" if other else ""  # one file a teacher
    facts = {**options, "dataset": name}
    results = [evaluation.measure(param, dataset, teacher, *archs) for param in params]
    explained = {}
    if maps:
        explained = explaining.measure(params, dataset, maps, teacher, baselines, flags.FLAGS.explain_images, *archs)
    for i, (weights, result) in enumerate(zip(all_weights, results, strict=True)):
        print(f"{weights.info['arch']} from {weights.folder} on {name} test ({len(dataset.test):,} images)")
        for key, value in result.items():
            print(f"{key:<10} {value:8.3f} {UNITS[key]}")
        files = {f"evaluation-{name}{against}.json": {**facts, "images": len(dataset.test), **result}}
        if maps:
            mine = {"images": explained["images"], "maps": explained["networks"][i]}
            if baselines:
                mine |= {"params": params, "baselines": baselines, "comparison": explained["comparison"]}
            print("\n".join(explaining.lines(mine)))
            files[f"evaluation-{name}{against}-explained.json"] = {**facts, **mine}
        for file, content in files.items():
            path = weights.folder / file
            try:
                run_folder.write_json(path, content)
                print(f"Written to {path}")
            except OSError as error:
                raise UserError(f"Measured, but cannot write {path}: {error.strerror}.") from None


def _list(flag: str) -> list[str]:
    """The parts of a flag that are joined by commas."""
    return [part.strip() for part in (flags.FLAGS[flag].value or "").split(",") if part.strip()]


if __name__ == "__main__":
    cli.main(main, __doc__)
