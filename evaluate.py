"""Measures trained weights, or a file that deploy.export wrote, on a dataset's test split."""

import pathlib

from configs import command
from configs.command import names_in
from files import write_json
from registry import UserError

KEYS = ("teacher_arch", "teacher_param", "dataset", "data_dir", "image_size", "channels", "skip_damaged")
KEYS += ("loading", "resize", "interpolation", "teacher_image_size", "teacher_taps", "teacher_input")
FLAGS = {
    "param": "what to measure: a run folder, a folder with weights.safetensors + model.json, hf:OWNER/NAME, or a file "
    "of deploy.export, which its own runtime computes",
    "arch": "the network, if its code is your own: module:attribute",
    "explain": "explanation maps to measure too, such as GradCAM,CAM; --param may then name several runs",
    "baseline": "with --explain: runs on labels alone to compare with, one for each of --param",
    "explain_images": "with --explain: the largest number of test images; 0: all; default: 1000",
    "probe": "measure the embedding instead: knn,linear; --param may then name several runs",
    **command.MACHINE,
}
APART = 10.0  # points between the best and the worst class; above this, the classes are printed
SHOWN = 100  # the largest number of classes to print; if there are more, the worst are printed
UNITS = {"nll": "nats", "kl": "nats"}  # of metrics that are not percent


def parse(argv: list[str]) -> command.Command:
    """Reads the command line: keys of the recipe and the other flags."""
    given = command.parse(argv, __doc__, KEYS, FLAGS)
    flags = given.flags
    command.check_teacher(given)
    if not flags["param"]:
        raise UserError("--param is needed: python evaluate.py --param runs/soft --dataset CIFAR10")
    if not flags["explain"] and flags["explain_images"]:
        raise UserError("--explain_images has no effect without maps: add --explain GradCAM, or leave it out.")
    if flags["probe"]:
        others = {**flags, "teacher_param": given.recipe.get("teacher_param", "")}
        if beside := [name for name in ("explain", "baseline", "teacher_param") if others[name]]:
            raise UserError(f"--probe measures the embeddings of --param alone: leave --{beside[0]} out.")
    elif not flags["explain"] and (len(names_in(flags["param"])) > 1 or flags["baseline"]):
        raise UserError(
            "Only maps are compared between several --param or with --baseline: add --explain GradCAM. "
            "Several embeddings: --probe knn."
        )
    if not (flags["explain_images"] or "0").isdecimal():
        raise UserError(f"--explain_images must be a whole number, 0 or more; got '{flags['explain_images']}'.")
    return given


def main(argv: list[str]) -> None:
    """Measures the weights, prints the results and writes them."""
    given = parse(argv)
    options, flags = given.recipe, given.flags
    params, maps, baselines = (names_in(flags[name]) for name in ("param", "explain", "baseline"))
    command.prepare(given)
    import pretrained
    import tasks
    from deploy import exported
    from models import quantization
    from pretrained import foreign, players
    from studies import evaluation, explaining, probing

    probing.check(names_in(flags["probe"]))
    explaining.check_maps(maps)
    files = [param for param in params if exported.is_file(param)]
    if files and (maps or flags["probe"] or flags["arch"]):
        needs = "--explain" if maps else "--probe" if flags["probe"] else "--arch"
        raise UserError(f"{needs} has no effect on {files[0]}: an exported file returns class scores alone.")
    file = exported.load(files[0]) if files else None
    all_weights = [file or pretrained.load(param) for param in params]
    dataset = players.dataset_of(all_weights[0].info, options)
    name = dataset.name
    if flags["probe"]:
        found = probing.measure(params, dataset, names_in(flags["probe"]), flags["arch"])
        for weights, result in zip(all_weights, found, strict=True):
            print_probes(weights, result, name)
            write({**options, "dataset": name, **result}, weights.folder / f"probe-{name}.json")
        return
    teacher, archs = options.get("teacher_param", ""), (flags["arch"], options.get("teacher_arch", ""))
    if teacher and dataset.task != "classification":
        raise UserError(f"--teacher_param compares class scores; {name} has boxes.\nMeasure the teacher as --param.")
    if not teacher:
        dataset.check_labelled("evaluate.py without --teacher_param")
    size = options.get("teacher_image_size", 0)
    torch = foreign.options_of(options)
    others = foreign.load_all(names_in(teacher), names_in(archs[1]), dataset, **torch)
    against = "".join(f"-against-{other.info['arch']}-{other.sha256[:8]}" for other in others)  # a file for each
    facts = {**options, "dataset": name}
    if file:
        all_logits = [file.answers(dataset)]
    else:
        all_logits = evaluation.answers(params, dataset, [flags["arch"]] * len(params), "network")
    teacher_logits = evaluation.teacher_answers(teacher, dataset, archs[1], size, **torch) if teacher else None
    task, labels = tasks.of(dataset), dataset.test.labels
    explained = {}
    if maps:
        images = int(flags["explain_images"] or 1000)
        explained = explaining.measure(params, dataset, maps, teacher, baselines, images, *archs, size, **torch)
    for i, (weights, logits) in enumerate(zip(all_weights, all_logits, strict=True)):
        result, classes = task.in_full(logits, labels, teacher_logits)
        how = file.facts["arithmetic"] if file else quantization.arithmetic(weights.info.get("options", {}))
        source = file.path if file else weights.folder
        print(f"{weights.info['arch']} from {source} on {name} test ({len(dataset.test):,} images), {how}")
        for key, value in result.items():
            print(f"{key:<10} {value:8.3f} {UNITS.get(key, '%')}")
        if classes and max(classes.values()) - min(classes.values()) > APART:
            shown = sorted(classes, key=classes.get)[:SHOWN] if len(classes) > SHOWN else classes
            title = "per class  " if len(shown) == len(classes) else "worst classes  "
            print(title + ", ".join(f"{label} {classes[label]:.1f}" for label in shown) + " %")
        facts_of_run = {**facts, "arithmetic": how, "images": len(dataset.test), **result, "per_class": classes}
        outs = {f"evaluation-{name}{against}.json": facts_of_run}
        if maps:
            mine = {"images": explained["images"], "maps": explained["networks"][i]}
            if baselines:
                mine |= {"params": params, "baselines": baselines, "comparison": explained["comparison"]}
            print("\n".join(explaining.lines(mine)))
            outs[f"evaluation-{name}{against}-explained.json"] = {**facts, **mine}
        for out, content in outs.items():
            write(content, source.with_name(f"{source.name}-{out}") if file else source / out)


def write(content: dict, path: pathlib.Path) -> None:
    """Writes what was measured, and says where."""
    try:
        write_json(path, content)
    except OSError as error:
        raise UserError(f"Measured, but cannot write {path}: {error.strerror}.") from None
    print(f"Written to {path}")


def print_probes(weights, result: dict, name: str) -> None:
    """Prints what `studies.probing.measure` found of one network, on the dataset `name`."""
    print(
        f"Embedding of {result['width']} numbers of {weights.info['arch']} from {weights.folder} on {name} test "
        f"({result['images']:,} images), by the labels of {result['memory']:,} training images"
    )
    for probe in (key for key in result if isinstance(result[key], dict)):
        late = "" if result[probe].get("converged", True) else "   not converged: the regression needs more steps"
        print(f"{probe:<10} {result[probe]['top1']:8.3f} %{late}")


if __name__ == "__main__":
    command.run(main)
