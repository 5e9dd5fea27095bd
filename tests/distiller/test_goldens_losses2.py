"""Losses and gradients of the newer methods' own reference code: losses2.json (tests/goldens/README.md)."""

import types
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_goldens import normal, outputs, tensors

import data
import distiller
import models
from data.objects import Objects
from distiller.abkd import alpha_beta_rows
from distiller.connectors import ConvNorm
from distiller.crld import view_losses
from distiller.cwd import channel_divergence
from distiller.dist_plus import channel_correlation, logit_losses, spatial_correlation
from distiller.dkl import pair_difference_rows
from distiller.ickd import channel_loss
from distiller.mgd import Generator, generation_loss
from distiller.nd import norm_direction_rows
from distiller.norm import many_to_one_loss
from distiller.pkd import correlation_loss, resized
from distiller.rld import masked_correlation_rows, sample_confidence_rows
from distiller.skd import direction_loss
from distiller.soft_logits import hard_cross_entropy, kl_divergence
from distiller.spatial import match_resolution
from models.projected import Projector


def recipe(name, *shape):
    """A learnable part in PyTorch's order: (out, in, kh, kw) or (out, in)."""
    values = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    return np.asarray(values * np.sqrt(1 / np.prod(shape[1:])), np.float32)


def inputs(case):
    """Student, teacher (tensors by name) and labels of a case."""
    seed = case["seed"]
    student, teacher = tensors(seed, case["same_resolution"])
    student["student_logits_2"] = 3 * normal(seed + 5, (8, 100))
    teacher["teacher_logits_2"] = 3 * normal(seed + 6, (8, 100))
    label = jnp.asarray(np.random.RandomState(seed + 2).randint(0, 100, 8), jnp.int32)
    teacher = {name: jnp.asarray(value) for name, value in teacher.items()}
    return types.SimpleNamespace(student=student, teacher=teacher, label=label, seed=seed)


def logits(x):
    return x.student["student_logits"], x.teacher["teacher_logits"]


def ask(name, **options):
    """The whole method without parameters, at weight 1 and after its warm-up."""

    def loss(x):
        views = [
            outputs(raw, who).replace(views=(outputs({**raw, f"{who}_logits": raw[f"{who}_logits_2"]}, who),))
            for raw, who in ((x.student, "student"), (x.teacher, "teacher"))
        ]
        batch = data.Batch(jnp.zeros((8, 32, 32, 3)), x.label, jnp.arange(8, dtype=jnp.int32), jnp.float32(1000))
        return distiller.create(name, **{"weight": 1.0, **options}).apply({}, *views, batch)[0]

    return loss


def log_softmax(z, temperature=4.0):
    return jax.nn.log_softmax(z / temperature)


def edge(alpha, beta, factor):
    """A divergence at an edge; the reference code returns the limit times `factor`."""
    return lambda x: factor * jnp.mean(alpha_beta_rows(*map(log_softmax, logits(x)[::-1]), alpha, beta))


def entropy(x, temperature):
    """What the cross-entropy with the teacher is more than KL."""
    t = log_softmax(x.teacher["teacher_logits"], temperature)
    return -jnp.mean(jnp.sum(jnp.exp(t) * t, axis=1))


def prior(x):
    """The class's weights, which the reference draws in place of the means of an epoch."""
    return jax.nn.softmax(2 * normal(x.seed + 9, (100, 100)))[x.label]


def by_prior(gamma):
    def loss(x):
        w = prior(x) if gamma is None else prior(x) ** gamma
        rows = pair_difference_rows(*logits(x), w)
        divisor = 8 if gamma is None else jnp.sum(jnp.square(jnp.sum(w, axis=1)))
        return jnp.sum(rows) / divisor + kl_divergence(*logits(x), 4.0) / 16 + entropy(x, 4.0)

    return loss


def with_entropy(loss):
    return lambda x: loss(x) + entropy(x, 4.0)


def views(x):
    return [
        (raw[f"{who}_logits"], raw[f"{who}_logits_2"]) for raw, who in ((x.student, "student"), (x.teacher, "teacher"))
    ]


def embeddings(x):
    return x.student["student_pooled"], x.teacher["teacher_pooled"]


def maps(x, stage=3, teacher_stage=3, raw=False, cut=False):
    """Student's and teacher's map, after the ReLU unless `raw`; `cut`: the teacher's first channels."""
    s, t = x.student[f"student_feature_{stage}"], x.teacher[f"teacher_feature_{teacher_stage}"]
    t = t[..., : s.shape[-1]] if cut else t
    return (s, t) if raw else (jax.nn.relu(s), jax.nn.relu(t))


def convolution(name, *shape, **further):
    """Variables of a convolution with a recipe weight (out, in, kh, kw)."""
    return {"kernel": jnp.asarray(recipe(name, *shape).transpose(2, 3, 1, 0)), **further}


def conv_norm(name, out, inputs, size=1):
    """Variables of `ConvNorm`."""
    norm = {"scale": jnp.ones(out), "bias": jnp.zeros(out)}
    return {"Conv_0": convolution(name, out, inputs, size, size), "BatchNorm_0": norm}


def norm_direction(x):
    centres = jnp.abs(normal(x.seed + 8, (100, 64)))[x.label]
    s, t = embeddings(x)
    return jnp.mean(norm_direction_rows(s, t[:, :64], centres))


def srrl(on_map):
    def loss(x):
        s, t = outputs(x.student, "student"), outputs(x.teacher, "teacher")
        if on_map:
            s = s.replace(features={**s.features, "final": s.features["stage3"]})
            t = t.replace(features={**t.features, "embedding": jnp.mean(t.features["stage3"], axis=(1, 2))})
        rows = jnp.asarray(recipe("teacher_classifier.weight", 100, 256))
        t = t.replace(head=jax.tree_util.Partial(lambda rows, x: x @ rows.T, rows))
        variables = {"params": {"connector": conv_norm("SRRL.connector.weight", 256, 64)}}
        return distiller.create("SRRL", on_map=on_map).apply(variables, s, t, batch=None)[0]

    return loss


def mgd(mask):
    def loss(x):
        s, t = maps(x)
        zeros = {"bias": jnp.zeros(256)}
        params = {"Conv_0": convolution("MGD.align.weight", 256, 64, 1, 1)}
        params |= {f"conv{i}": convolution(f"MGD.conv{i}.weight", 256, 256, 3, 3, **zeros) for i in (1, 2)}
        return generation_loss(Generator(256).apply({"params": params}, s, jnp.asarray(mask(x.seed))), t)

    return loss


def channel_mask(seed):
    drawn = np.random.RandomState(seed + 7).uniform(0, 1, (8, 256, 1, 1)).astype(np.float32)
    return drawn.transpose(0, 2, 3, 1) >= 0.15


def position_mask(seed):
    drawn = np.random.RandomState(seed + 7).uniform(0, 1, (8, 1, 8, 8)).astype(np.float32)
    return drawn.transpose(0, 2, 3, 1) <= 0.35


def embedded(name, width, x, **which):
    """The student's map through `ConvNorm`, and the teacher's map."""
    s, t = maps(x, **which)
    return ConvNorm(width).apply({"params": conv_norm(name, width, 64)}, s), t


def max_pooled(student, teacher):
    size = (student.shape[1], 2, student.shape[2], 2)
    return student, jnp.max(teacher.reshape(8, *size, -1), axis=(2, 4))


def resize(which):
    def loss(x):
        s, t = maps(x, cut=True)
        return correlation_loss(*((resized(s, t), t) if which == "student" else (s, resized(t, s))))

    return loss


def deit(x, share=None, **options):
    """The teacher's loss of the second logits; with a share also the label loss of the first."""
    taps = {"class_logits": x.student["student_logits"], "distill_logits": x.student["student_logits_2"]}
    student = outputs(x.student, "student").replace(features=taps)
    method = distiller.create("DeiT", weight=1.0, **options)
    loss = method.apply({}, student, outputs(x.teacher, "teacher"), batch=None)[0]
    if share is None:
        return loss
    picked = jnp.take_along_axis(log_softmax(method.label_outputs(student).logits, 1.0), x.label[:, None], axis=1)
    return share * loss - (1 - share) * jnp.mean(picked)


def projected(x, factor, pool=False):
    """The student's last map behind SimKD's projector, and the teacher's; `pool`: to the teacher's resolution first."""
    s, t = maps(x)
    s, t = match_resolution(s, t) if pool else (s, t)
    inside, params, stats = 256 // factor, {}, {}
    for i, shape in enumerate(((inside, 64, 1, 1), (inside, inside, 3, 3), (256, inside, 1, 1)), start=1):
        params[f"conv{i}"] = convolution(f"SimKD.conv{i}.weight", *shape)
        params[f"bn{i}"] = {"scale": jnp.ones(shape[0]), "bias": jnp.zeros(shape[0])}
        stats[f"bn{i}"] = {"mean": jnp.zeros(shape[0]), "var": jnp.ones(shape[0])}
    variables = {"params": params, "batch_stats": stats}
    return Projector(256, factor).apply(variables, s, True, mutable=["batch_stats"])[0], t


def simkd(factor, pool=False):
    def loss(x):
        s, t = projected(x, factor, pool)
        student = outputs(x.student, "student").replace(features={"projected": s})
        teacher = outputs(x.teacher, "teacher").replace(features={"final": t})
        return distiller.create("SimKD").apply({}, student, teacher, None)[0]

    return loss


def reused_classifier(x):
    embedding = jnp.mean(projected(x, 2)[0], axis=(1, 2))
    scores = log_softmax(embedding @ recipe("teacher_classifier.weight", 100, 256).T, 1.0)
    return -jnp.mean(jnp.take_along_axis(scores, x.label[:, None], axis=1))


def linear(name, inputs, **further):
    """Variables of a projection to 128 with a recipe weight."""
    return {"kernel": jnp.asarray(recipe(name, 128, inputs).T), **further}


def dcd(x):
    none = {"bias": jnp.zeros(128)}
    params = {"embed_student": linear("DCD.student.weight", 64, **none), "theta": jnp.float32(1)}
    params |= {"embed_teacher": linear("DCD.teacher.weight", 256, **none)}
    both = outputs(x.student, "student"), outputs(x.teacher, "teacher")
    return distiller.create("DCD").apply({"params": params}, *both, None)[0]


def rrd(teacher_temperature):
    def loss(x):
        queue = normal(x.seed + 9, (64, 128))
        memory = {"queue": jnp.asarray(queue / np.linalg.norm(queue, axis=1, keepdims=True)), "oldest": jnp.int32(0)}
        memory |= {"embed_teacher": linear("RRD.teacher.weight", 256)["kernel"]}
        params = {"embed_student": linear("RRD.student.weight", 64, bias=jnp.zeros(128))}
        both = outputs(x.student, "student"), outputs(x.teacher, "teacher")
        method = distiller.create("RRD", queue=64, teacher_temperature=teacher_temperature)
        return method.apply({"params": params, "memory": memory}, *both, None)[0]

    return loss


def dist_plus_as_coded(x):
    """The reference adds the channels' correlation; the method adds 1 - correlation."""
    both = maps(x, cut=True)
    return sum(logit_losses(*logits(x), 1.0)) + channel_correlation(*both) + 1 - spatial_correlation(*both)


def fgd(**only):
    """FGD with the terms whose weights are given; all terms with the published weights without."""

    def loss(x):
        r, none = np.random.RandomState(x.seed + 9), {"bias": jnp.zeros(32)}
        corner, size = r.uniform(0, 20, (8, 2, 2)), r.uniform(4, 11, (8, 2, 2))
        boxes = np.concatenate([corner, corner + size], axis=2).astype(np.float32)
        yes, zeros = np.ones((8, 2), bool), np.zeros((8, 2), np.int32)
        objects = Objects(boxes, zeros, ~yes, np.ones((8, 2)), np.full((8, 2), 32.0), np.ones(8))
        params = {}
        for who in ("student", "teacher"):
            shapes = {"mask": (1, 64, 1, 1), "down": (32, 64, 1, 1), "up": (64, 32, 1, 1)}
            own = {name: convolution(f"FGD.{who}.{name}.weight", *shape) for name, shape in shapes.items()}
            own |= {name: {**own[name], "bias": jnp.zeros(shapes[name][0])} for name in ("down", "up")}
            params[f"{who}1"] = own | {"norm": {"scale": jnp.ones(32), **none}}
        both = maps(x, raw=True, cut=True)
        nets = [models.Outputs(jnp.zeros((8, 2)), {"stage3": f}) for f in both]
        batch = data.Batch(jnp.zeros((8, 32, 32, 3)), x.label, jnp.arange(8), jnp.float32(0), objects=objects)
        none = dict.fromkeys(("alpha", "beta", "gamma", "lamda"), 0.0) if only else {}
        return distiller.create("FGD", **none | only).apply({"params": params}, *nets, batch)[0]

    return loss


def split(x):
    s, t = maps(x)
    return many_to_one_loss(s, t[..., :16])


GOLDENS = {
    ("TTM", "gamma0.1"): ask("TTM", gamma=0.1),
    ("TTM", "gamma0.2"): ask("TTM", gamma=0.2),
    ("WTTM", "gamma0.1"): ask("WTTM", gamma=0.1),
    ("WTTM", "gamma0.2"): ask("WTTM", gamma=0.2),
    ("RLD", "a1b8T4_Talpha1"): ask("RLD", sample_temperature=1.0),
    ("RLD", "a1b8T4_Talpha4"): ask("RLD", sample_temperature=4.0),
    ("RLD", "a1b8T2_Talpha2_standardize"): ask("RLD", temperature=2.0, sample_temperature=2.0, standardize=True),
    ("RLD_SCD", "T4"): lambda x: jnp.mean(sample_confidence_rows(*logits(x), x.label, 4.0)),
    ("RLD_MCD", "T4"): lambda x: jnp.mean(masked_correlation_rows(*logits(x), x.label, 4.0)),
    ("ABKD", "a0.8b0.3T4"): ask("ABKD", alpha=0.8, beta=0.3),
    ("ABKD", "a0.5b0.5T4"): ask("ABKD", divergence="hellinger"),
    ("ABKD", "a0b1T4"): ask("ABKD", divergence="reverse-kl"),
    ("ABKD", "a1b0T4"): ask("ABKD", divergence="kl"),
    ("ABKD", "a0.5b0T4"): edge(0.5, 0.0, 0.5),
    ("ABKD", "a0b0.5T4"): edge(0.0, 0.5, 0.5),
    ("ABKD", "a0.5b-0.5T4"): edge(0.5, -0.5, 0.5),
    ("ABKD", "a0b0T4"): ask("ABKD", alpha=0.0, beta=0.0),
    ("SKD_instance", "T4"): lambda x: kl_divergence(*logits(x), 4.0) / 16,
    ("SKD_direction", "lambda.1"): lambda x: direction_loss(*logits(x), 0.1),
    ("SKD", "T4_lambda.1_w1,1"): ask("SKD"),
    ("NormKD", "T2"): ask("NormKD"),
    ("IKL", "a1b4T4_T2_100"): with_entropy(ask("IKL")),
    ("IKL", "a1b4T4_prior"): by_prior(None),
    ("IKL_wMSE", "T2_1"): ask("IKL", alpha=0.0, beta=1.0, weight_temperature=1.0),
    ("GKL", "a1b4g.2T4_T2_4"): with_entropy(ask("GKL")),
    ("GKL", "a1b4g.2T4_prior"): by_prior(0.2),
    ("WSLD", "T2"): ask("WSLD", temperature=2.0),
    ("WSLD", "T4"): ask("WSLD", temperature=4.0),
    ("CRLD", "wv2_cv.5_T4_tauw.5_taus.3"): ask("CRLD", weak_threshold=0.5, strong_threshold=0.3),
    ("CRLD_within", "T4_tauw.5"): lambda x: view_losses(*views(x), 4.0, 0.5, 0.3)[0],
    ("CRLD_cross", "T4_taus.3"): lambda x: view_losses(*views(x), 4.0, 0.5, 0.3)[1],
    ("ND", "embed64"): norm_direction,
    ("SRRL", "embedding"): srrl(False),
    ("SRRL", "map_stage3"): srrl(True),
    ("MGD", "channel_mask_lambda.15_stage3"): mgd(channel_mask),
    ("MGD", "spatial_mask_lambda.65_stage3"): mgd(position_mask),
    ("ICKD", "embed_stage3"): lambda x: channel_loss(*embedded("ICKD.embed.weight", 256, x)),
    ("ICKD", "equal_channels_stage3_per_b2"): lambda x: channel_loss(*maps(x, cut=True)) / 8,
    ("CWD", "T1_equal_channels_stage3"): lambda x: channel_divergence(*maps(x, cut=True), 1.0),
    ("CWD", "T4_equal_channels_stage3"): lambda x: channel_divergence(*maps(x, cut=True), 4.0),
    ("CWD", "T4_raw_stage3"): lambda x: channel_divergence(*maps(x, cut=True, raw=True), 4.0),
    ("NORM", "N4_split_only_stage3"): split,
    ("NORM", "N4_stage3"): lambda x: many_to_one_loss(*embedded("NORM.expand.weight", 1024, x)),
    ("NORM", "N2_teacher_stage2_maxpool"): lambda x: many_to_one_loss(
        *max_pooled(*embedded("NORM.expand.weight", 256, x, teacher_stage=2))
    ),
    ("FGD", "a1e-3b5e-4g5e-4l5e-6_temp.5"): fgd(),
    ("FGD_foreground", "temp.5"): fgd(alpha=1.0),
    ("FGD_background", "temp.5"): fgd(beta=1.0),
    ("FGD_attention", "temp.5"): fgd(gamma=1.0),
    ("FGD_relation", "recipe"): fgd(lamda=1.0),
    ("PKD", "stage3_equal_channels"): lambda x: correlation_loss(*maps(x, cut=True)),
    ("PKD", "stage3_raw"): lambda x: correlation_loss(*maps(x, cut=True, raw=True)),
    ("PKD", "stage3_resize_student"): resize("student"),
    ("PKD", "stage3_resize_teacher"): resize("teacher"),
    ("SimKD", "f2_stage3"): simkd(2),
    ("SimKD", "f4_stage3"): simkd(4),
    ("SimKD", "f2_stage3_cross"): simkd(2, pool=True),
    ("SimKD_prediction_ce", "f2_stage3"): reused_classifier,
    ("DCD", "dim128_a.5_tau1_b0"): dcd,
    ("RRD", "fifo64_ts.1_tt.02"): rrd(0.02),
    ("RRD", "fifo64_ts.1_tt.05"): rrd(0.05),
    ("DISTPlus_as_coded", "b1g1i1k1tau1"): dist_plus_as_coded,
    ("DISTPlus_channel_correlation", "equal_channels_stage3"): lambda x: channel_correlation(*maps(x, cut=True)),
    ("DISTPlus_spatial", "stage3"): lambda x: 1 - spatial_correlation(*maps(x)),
    ("DeiT_soft_term", "T3"): lambda x: deit(x, hard=False, released=True),
    ("DeiT", "soft_a.1T3"): lambda x: deit(x, 0.1, hard=False, released=True),
    ("DeiT", "hard_a.5"): lambda x: deit(x, 0.5),
    ("DeiT_hard_term", "argmax"): lambda x: hard_cross_entropy(
        x.student["student_logits_2"], x.teacher["teacher_logits"]
    ),
}


@pytest.mark.parametrize("case", GOLDENS, ids="-".join)
def test_loss_and_gradients_are_the_reference_codes(case, golden):
    found = [c for c in golden("losses2")["cases"] if (c["method"], c["case"]) == case]
    assert len(found) == 2  # seeds 100 and 200
    for numbers in found:
        given = inputs(numbers)

        def loss(student, given=given):
            return GOLDENS[case](types.SimpleNamespace(**{**vars(given), "student": student}))

        value, gradients = jax.jit(jax.value_and_grad(loss))(given.student)
        np.testing.assert_allclose(value, numbers["loss"], rtol=1e-5)
        for name, gradient in gradients.items():
            gradient = np.asarray(gradient, np.float64)
            if name not in numbers["grads"]:
                assert not gradient.any(), name
                continue
            expected = numbers["grads"][name]
            np.testing.assert_allclose(np.linalg.norm(gradient), expected["l2"], rtol=1e-4, err_msg=name)
            floor = 1e-4 * expected["l2"] / np.sqrt(gradient.size)
            np.testing.assert_allclose(gradient.reshape(-1)[:4], expected["first"], rtol=1e-4, atol=floor, err_msg=name)


def test_every_golden_of_a_registered_method_is_checked(golden):
    cases = {(c["method"], c["case"]) for c in golden("losses2")["cases"]}
    here = {case for case in cases if case[0].partition("_")[0] in distiller.names()}
    assert here
    assert here <= GOLDENS.keys() <= cases
