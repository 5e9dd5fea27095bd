"""Draws explanation maps, and comparisons of teacher and students, on a dataset's test split."""

from configs import command
from configs.command import names_in
from registry import UserError

KEYS = ("teacher_arch", "teacher_param", "dataset", "data_dir", "image_size", "channels", "skip_damaged")
KEYS += ("loading", "resize", "interpolation", "teacher_image_size", "teacher_taps", "teacher_input")
FLAGS = {
    "param": "the students: run folders or folders of weights, joined by commas",
    "out": "the file to write, .png or .svg",
    "kind": "panel (default), training, tsne, correlation, confusion or reliability; of boxes: detections",
    "map": "the map for panel (or several: A,B) and training, default: GradCAM; for detections GradCAM or none",
    "images": "a number of test images, or their indices: 3,17,25",
    "arch": "the students' network, if its code is your own: module:attribute",
    **command.MACHINE,
}


def parse(argv: list[str]) -> command.Command:
    """Reads the command line: keys of the recipe and the other flags."""
    given = command.parse(argv, __doc__, KEYS, FLAGS)
    if not given.flags["param"] or not given.flags["out"]:
        raise UserError("--param and --out are needed: python explain.py --param runs/soft --out panel.png")
    command.check_teacher(given)
    return given


def main(argv: list[str]) -> None:
    """Draws one figure and writes it to one file."""
    given = parse(argv)
    options, flags = given.recipe, given.flags
    kind, params = flags["kind"], names_in(flags["param"])
    from explain import pictures

    pictures.check_path(flags["out"])
    command.prepare(given)
    import pretrained
    from pretrained import foreign
    from pretrained.players import dataset_of
    from studies import explaining

    explaining.check_maps(names_in(flags["map"]))
    if flags["map"] and kind not in ("", "detections", *explaining.MAP_KINDS):
        raise UserError(f"--map has no meaning here: --kind {kind} draws no maps. Leave it out.")
    first = explaining.epochs_of(params)[0] if kind == "training" else params[0]
    dataset = dataset_of(pretrained.load(first).info, options)
    figure = explaining.draw(
        kind or ("detections" if dataset.task == "detection" else "panel"),
        params,
        dataset,
        options.get("teacher_param", ""),
        flags["map"],
        flags["images"],
        flags["arch"],
        options.get("teacher_arch", ""),
        options.get("teacher_image_size", 0),
        **foreign.options_of(options),
    )
    print(f"Written to {pictures.save(figure, flags['out'])}")


if __name__ == "__main__":
    command.run(main)
