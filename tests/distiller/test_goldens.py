"""Losses and gradients that the methods' own reference code computed (tests/goldens/README.md)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import data
import distiller
import models


@dataclasses.dataclass(frozen=True)
class Case:
    """A line of the goldens, and the method that must reproduce it.

    Attributes:
        golden: `method` and `case` of the line.
        name, options: what `distiller.create` is given; `weight` is 1 unless told.
        cut: the teacher's features and embedding are cut to the student's first channels.
        classifier: the teacher's classifier has the rows `normal(9999, (100, 64))`.
        rtol: of the loss; larger where the reference's own float32 has lost digits.
    """

    golden: tuple[str, str]
    name: str
    options: dict
    cut: bool = False
    classifier: bool = False
    rtol: float = 1e-5


CASES = [
    Case(("SoftLogits", "T4"), "SoftLogits", {"temperature": 4.0}),
    Case(("SoftLogits", "T1"), "SoftLogits", {"temperature": 1.0}),
    Case(("Logits", "mse_mean"), "Logits", {}),
    Case(("AT", "p2"), "AT", {"p": 2}),
    Case(("AT", "p4_cross"), "AT", {"p": 4}),
    Case(("DKD", "a1b8T4"), "DKD", {"beta": 8.0, "temperature": 4.0, "warmup_epochs": 0}),
    Case(("DKD", "a1b2T1"), "DKD", {"beta": 2.0, "temperature": 1.0, "warmup_epochs": 0}),
    Case(("DIST", "tau1"), "DIST", {"temperature": 1.0}),
    Case(("DIST", "tau4"), "DIST", {"temperature": 4.0}),
    Case(("NKD", "T1g1.5"), "NKD", {"temperature": 1.0, "gamma": 1.5}),
    Case(("NKD", "T3g3.5"), "NKD", {"temperature": 3.0, "gamma": 3.5}),
    Case(("WKDLogit", "T8g1_lambda0.05_it10"), "WKDLogit", {"gamma": 1.0}, cut=True, classifier=True),
    Case(("PKT", "default"), "PKT", {}, rtol=5e-5),  # in float64 its inputs give 4.491577e-05
    Case(("RKD", "default"), "RKD", {}),
    Case(("SP", "default"), "SP", {}),
    Case(("CC", "embed64"), "CC", {}, cut=True),
    Case(("CC_kernel", "zoo_gamma.4_P2"), "CC", {"kernel": True, "gamma": 0.4, "order": 2}),
    Case(("IRG", "zoo_v.1_e5_t5_stages2,3"), "IRG", {}),
    Case(("NST", "default"), "NST", {}),
    Case(("NST", "cross"), "NST", {}),
    Case(("FSP", "equal_channels"), "FSP", {}, cut=True),
    Case(("AB", "equal_channels"), "AB", {}, cut=True),
]
STUDENT_SHAPES = [(8, 32, 32, 16), (8, 32, 32, 16), (8, 16, 16, 32), (8, 8, 8, 64)]
TEACHER_SHAPES = {
    True: [(8, 32, 32, 32), (8, 32, 32, 64), (8, 16, 16, 128), (8, 8, 8, 256)],
    False: [(8, 16, 16, 32), (8, 16, 16, 64), (8, 8, 8, 128), (8, 4, 4, 256)],
}


def normal(seed, shape):
    return np.random.RandomState(seed).standard_normal(shape).astype(np.float32)


def tensors(seed, same_resolution):
    """Student's and teacher's tensors by the goldens' names, features before the ReLU."""
    student = {"student_logits": 3 * normal(seed, (8, 100)), "student_pooled": np.abs(normal(seed + 3, (8, 64)))}
    teacher = {"teacher_logits": 3 * normal(seed + 1, (8, 100)), "teacher_pooled": np.abs(normal(seed + 4, (8, 256)))}
    for i in range(4):
        student[f"student_feature_{i}"] = normal(seed + 10 + i, STUDENT_SHAPES[i])
        teacher[f"teacher_feature_{i}"] = normal(seed + 20 + i, TEACHER_SHAPES[same_resolution][i])
    return student, teacher


def outputs(raw, who):
    """`models.Outputs` as a network would have made them."""
    features = {"stem": jax.nn.relu(raw[f"{who}_feature_0"])}
    for i in (1, 2, 3):
        features[f"stage{i}_preact"] = raw[f"{who}_feature_{i}"]
        features[f"stage{i}"] = jax.nn.relu(raw[f"{who}_feature_{i}"])
    return models.Outputs(raw[f"{who}_logits"], {**features, "embedding": raw[f"{who}_pooled"]})


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(case.golden))
def test_loss_and_gradients_are_the_reference_codes(case, golden):
    (numbers,) = [c for c in golden("losses")["cases"] if (c["method"], c["case"]) == case.golden]
    seed = numbers["seed"]
    student, teacher = tensors(seed, numbers["same_resolution"])
    if case.cut:
        for name, value in teacher.items():
            if name != "teacher_logits":
                teacher[name] = value[..., : student[name.replace("teacher", "student")].shape[-1]]
    label = np.random.RandomState(seed + 2).randint(0, 100, 8).astype(np.int32)
    batch = data.Batch(jnp.zeros((8, 32, 32, 3)), jnp.asarray(label), jnp.arange(8, dtype=jnp.int32), jnp.float32(0))
    method = distiller.create(case.name, **{"weight": 1.0, **case.options})
    taught = outputs(teacher, "teacher")
    if case.classifier:
        taught = taught.replace(head=jax.tree_util.Partial(lambda rows, x: x @ rows.T, normal(9999, (100, 64))))
    variables = jax.jit(method.init)(jax.random.key(0), outputs(student, "student"), taught, batch)

    def loss(raw):
        return method.apply(variables, outputs(raw, "student"), taught, batch)[0]

    value, gradients = jax.jit(jax.value_and_grad(loss))(student)
    np.testing.assert_allclose(value, numbers["loss"], rtol=case.rtol)
    assert numbers["grads"].keys() <= gradients.keys()
    for name, gradient in gradients.items():
        gradient = np.asarray(gradient, np.float64)
        if name not in numbers["grads"]:
            assert not gradient.any(), name
            continue
        expected = numbers["grads"][name]
        np.testing.assert_allclose(np.linalg.norm(gradient), expected["l2"], rtol=1e-4, err_msg=name)
        floor = 1e-4 * expected["l2"] / np.sqrt(gradient.size)
        np.testing.assert_allclose(gradient.reshape(-1)[:4], expected["first"], rtol=1e-4, atol=floor, err_msg=name)


def test_every_golden_of_a_method_here_is_in_the_table(golden):
    known = {(c["method"], c["case"]) for c in golden("losses")["cases"] if c["method"] in distiller.names()}
    assert known
    assert known <= {case.golden for case in CASES}
