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
    c.teacher_arch = ""  # empty: what `teacher_param` says; several, of teachers or peers: "ResNet20,ResNet8"
    c.teacher_param = (
        "pretrained/resnet20_digits"  # a run folder, or one with weights.safetensors + model.json; several: "a,b"
    )
    c.teacher_dtype = ""  # compute type of the teacher; empty: `dtype`

    # Teacher bank: train on so many fixed views of each image, whose teacher logits are computed once; 0: fresh views,
    # and the teacher in every step. For methods that read logits only (docs/performance.md).
    c.teacher_views = 0
    c.teacher_bank_dtype = "float16"  # or "float32": how they are stored
    c.teacher_bank_top_k = 0  # for many classes: the k highest, and the rest as one number; 0: all of them

    # What, and under which strategy.
    c.distiller = ""  # empty: the strategy's own, such as SoftLogits
    c.distiller_options = ConfigDict()  # the method's fields; of a sum, per part: {"AT": {"weight": 500.0}}
    c.transfer = "Offline"
    c.transfer_options = ConfigDict()  # the strategy's fields

    # On which data.
    c.dataset = "Digits"
    c.data_dir = ""  # empty: the source's default place
    c.image_size = 0  # pixels; ImageFolder only
    c.num_labels = 0  # labelled images that the label loss sees, class-balanced; 0: all
    c.crop_pad = -1  # pixels of padding for the random crop; -1: the dataset's
    c.crop_mode = "zero"  # or "reflect"
    c.flip = "auto"  # "yes", "no"; auto: the dataset's
    c.resized_crop = 0.0  # least share of the area in a random resized crop, in the place of the padded one; 0: none
    c.randaugment = 0  # operations of RandAugment for each image; 0: none
    c.magnitude = 9  # of RandAugment, 0 to 30
    c.strong_view = "randaugment"  # of methods that ask for strong views: 2 operations of magnitude 10; or "fixmatch"
    c.mixup = 0.0  # alpha of mixup; 1: shares are uniform, 0: none
    c.cutmix = 0.0  # alpha of CutMix; with mixup, each image gets one of the two

    # How: SGD, the CIFAR-100 benchmark's schedule.
    c.train_epoch = 30
    c.batch_size = 64
    c.optimizer = "sgd"  # or "adamw", "dot"
    c.learning_rate = 0.05
    c.ramp_epochs = 0.0  # epochs in which the learning rate grows to what the schedule says
    c.clip_norm = 0.0  # longest gradient; 0: any
    c.momentum = 0.9  # of sgd and dot
    c.dot_delta = 0.075  # of dot: so much less momentum for the label loss, so much more for the distillation loss
    c.nesterov = False
    c.weight_decay = 5e-4
    c.decay_kernels_only = False  # False: weight decay on everything, as the benchmarks do
    c.schedule = "step"  # "step", "cosine" or "constant"
    c.milestones = (0.625, 0.75, 0.875)  # shares of the training at which "step" multiplies by decay_factor
    c.decay_factor = 0.1
    c.dtype = "float32"  # compute type: "float32" or "bfloat16"; parameters stay float32
    c.seed = 0
    c.seeds = 1  # that many independent replicas with seeds from `seed` up, trained side by side
    c.stack_seeds = "auto"  # "yes": by one program; "no": one after the other; auto: yes on GPU and TPU
    c.steps_per_call = "auto"  # updates in one call at most, such as "20"; auto: 50 on GPU and TPU, 1 on CPU
    c.on_nan = "stop"  # at a loss or gradient that is not finite; or "skip" that update and count it
    c.deterministic = False  # repeatable kernels on GPU, at some cost; CPU runs are repeatable anyway

    # Where to, and how often.
    c.train_path = ""  # empty: runs/<what is trained>
    c.log_every = 50  # steps
    c.eval_every = 1  # epochs
    c.keep_epochs = 0  # write the weights of every n-th epoch to epochs/ of the run, for pictures; 0: none
    c.checkpoint_seconds = 30.0  # at least this long between two checkpoints
    return c
