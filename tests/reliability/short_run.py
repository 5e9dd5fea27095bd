"""The recipe of a run that takes a second or two, and a hook before the save of a certain step."""

from training.checkpoint import Checkpoints

RECIPE = {"student_arch": "CNN", "transfer": "Labels", "train_epoch": 1, "batch_size": 100, "log_every": 3}
RECIPE |= {"crop_pad": 1, "checkpoint_seconds": 0.0}  # a checkpoint after every step
STEPS = 12


def before_save(monkeypatch, step, do):
    """Calls `do()` when the checkpoint of `step` is about to be written."""
    save = Checkpoints.save

    def spied(self, now, *arguments, **options):
        if now == step:
            do()
        return save(self, now, *arguments, **options)

    monkeypatch.setattr(Checkpoints, "save", spied)
