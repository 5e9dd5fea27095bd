"""The defaults of every run: what a recipe changes, it changes here by name.

A recipe is a file with `get_config()` that returns an `ml_collections.ConfigDict` with the keys it changes. Order of
precedence: this file, then the recipe (`--config FILE.py`), then `--config.key=value`, then explicit flags.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """All keys, with the defaults of `train_w_kd.py`."""
    c = ConfigDict()

    # Who: `train_teacher.py` trains `teacher_arch` on labels; `train_w_kd.py` distils it into `student_arch`.
    c.student_arch = "ResNet8"
    c.student_options = ConfigDict()  # the network's fields, such as {"patch_size": 4} of a ViT
    c.teacher_arch = ""  # empty: what `teacher_param` says
    c.teacher_param = "pretrained/resnet20_digits"  # a run folder, or a folder with weights.safetensors + model.json

    # What, and under which strategy.
    c.distiller = "SoftLogits"
    c.distiller_options = ConfigDict()  # the method's fields; of a sum, per part: {"AT": {"weight": 500.0}}
    c.transfer = "Offline"

    # On which data.
    c.dataset = "Digits"
    c.data_dir = ""  # empty: the source's default place
    c.image_size = 0  # pixels; ImageFolder only
    c.num_labels = 0  # labelled images that the label loss sees, class-balanced; 0: all
    c.crop_pad = -1  # pixels of padding for the random crop; -1: the dataset's
    c.crop_mode = "zero"  # or "reflect"
    c.flip = "auto"  # "yes", "no"; auto: the dataset's

    # How: SGD, the CIFAR-100 benchmark's schedule.
    c.train_epoch = 30
    c.batch_size = 64
    c.learning_rate = 0.05
    c.momentum = 0.9
    c.nesterov = False
    c.weight_decay = 5e-4
    c.decay_kernels_only = False  # False: weight decay on everything, as the benchmarks do
    c.schedule = "step"  # "step", "cosine" or "constant"
    c.milestones = (0.625, 0.75, 0.875)  # shares of the training at which "step" multiplies by decay_factor
    c.decay_factor = 0.1
    c.dtype = "float32"  # compute type: "float32" or "bfloat16"; parameters stay float32
    c.seed = 0
    c.deterministic = False  # repeatable kernels on GPU, at some cost; CPU runs are repeatable anyway

    # Where to, and how often.
    c.train_path = ""  # empty: runs/<what is trained>
    c.log_every = 50  # steps
    c.eval_every = 1  # epochs
    c.keep_epochs = 0  # write the weights of every n-th epoch to epochs/ of the run, for pictures; 0: none
    c.checkpoint_seconds = 30.0  # at least this long between two checkpoints
    return c
