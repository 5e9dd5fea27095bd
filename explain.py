"""Draws what teacher and students look at, and how their answers compare, on a dataset's test split."""

from absl import flags

from registry import UserError
from training import cli

RECIPE = ["teacher_arch", "teacher_param", "dataset", "data_dir", "image_size"]

cli.define(*RECIPE, recipes=False)
flags.DEFINE_string("arch", "", "the students' network, where that is a module:attribute of your own")
flags.DEFINE_string("param", None, "the students: run folders or folders of weights, joined by commas")
flags.DEFINE_string("kind", "panel", "panel, training, tsne, correlation, confusion or reliability")
flags.DEFINE_string("map", "GradCAM", "the explanation map of panel and training")
flags.DEFINE_string("images", "", "how many test images, or which: 3,17,25")
flags.DEFINE_string("out", None, "the picture, .png or .svg")


def main() -> None:
    """Flags to one call to one file."""
    options, params = cli.given(RECIPE), [p for p in (flags.FLAGS.param or "").split(",") if p]
    if not params or not flags.FLAGS.out:
        raise UserError("--param and --out are needed: python explain.py --param runs/soft --out panel.png")
    from explain import pictures

    pictures.check_path(flags.FLAGS.out)
    cli.prepare_jax()
    import pretrained
    from studies import explaining
    from training import evaluation

    explaining.check_maps([flags.FLAGS.map])
    if flags.FLAGS["map"].present and flags.FLAGS.kind not in explaining.MAP_KINDS:
        raise UserError(f"--map has no meaning here: --kind {flags.FLAGS.kind} draws no maps. Leave it out.")
    first = explaining.epochs_of(params)[0] if flags.FLAGS.kind == "training" else params[0]
    figure = explaining.draw(
        flags.FLAGS.kind,
        params,
        evaluation.dataset_of(pretrained.load(first).info, options),
        options.get("teacher_param", ""),
        flags.FLAGS.map,
        flags.FLAGS.images,
        flags.FLAGS.arch,
        options.get("teacher_arch", ""),
    )
    print(f"Written to {pictures.save(figure, flags.FLAGS.out)}")


if __name__ == "__main__":
    cli.main(main, __doc__)
