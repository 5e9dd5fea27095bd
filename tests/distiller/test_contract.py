"""What every method promises. A new method is picked up by its name and needs one line in WHERE_EQUAL.

One compiled program a method answers almost all questions. The program takes several cases side by side, as a training
of several seeds does (`jax.vmap`): networks as they are, features of zeros, a sure teacher, equal images, withheld
labels, a batch in another order, a larger weight. For every case the program returns the method's fresh variables,
loss, terms, memory and gradients. A second program, with smaller networks, has a batch of one.
"""

import functools
import types

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from smooth_network import answer, asked, keys, make_batch, player

import distiller

# The loss where the student is the teacher; None where it is not 0, not exactly, or not promised (learned connectors).
WHERE_EQUAL = dict.fromkeys(("SoftLogits", "Logits", "DKD", "MLKD", "CTKD", "SDD", "SoftLogits+AT"), 0.0)
WHERE_EQUAL |= dict.fromkeys(("AT", "PKT", "RKD", "SP", "CC", "IRG", "AFD", "NST", "FSP", "KDSVD"), 0.0)
WHERE_EQUAL |= dict.fromkeys(("ExpKD", "E2KD", "CATKD", "LwM", "GradAT", "ExplanationMatch"), 0.0)
WHERE_EQUAL |= dict.fromkeys(("NKD", "OFA", "ReviewKD", "CRD", "SRD", "VkD", "WKDFeature", "AB"))
WHERE_EQUAL |= dict.fromkeys(("FitNet", "FT", "VID", "OFD"))
WHERE_EQUAL |= dict.fromkeys(("IKL", "GKL", "SKD", "NormKD"), 0.0)
WHERE_EQUAL |= dict.fromkeys(("TTM", "WTTM", "RLD", "WSLD", "CRLD", "DeiT"))  # targets other than the teacher's answer
WHERE_EQUAL |= dict.fromkeys(("CWD", "PKD"), 0.0)
WHERE_EQUAL |= dict.fromkeys(("ND", "SRRL", "MGD", "ICKD", "NORM", "SemCKD", "ViTKD", "FGD"))
WHERE_EQUAL["MiniLM"] = 0.0
WHERE_EQUAL |= dict.fromkeys(("SimKD", "DISTPlus", "DCD", "RRD"))
WHERE_EQUAL["ABKD"] = None  # rounding over alpha * beta; tests/distiller/test_abkd.py has the bound
WHERE_EQUAL["DIST"] = None  # 1e-8 in the correlation's denominator; tests/distiller/test_dist.py has the bound
WHERE_EQUAL["WKDLogit"] = None  # a cross-entropy and an entropic transport cost
NEEDS_THREE_CLASSES = ("DKD", "NKD", "WKDLogit", "SDD", "NormKD")  # all others work with two, and are asked with two
TWO_HEADS = ("DeiT",)  # methods that ask for a student with two heads
PROJECTED = ("SimKD",)  # methods that ask for a student with a projector
TOKENS = ("ViTKD", "MiniLM")  # methods that ask for two transformers
NAMES = [*distiller.names(), "SoftLogits+AT"]
SURE = "sure teacher"
LATE = 1000.0  # an epoch after all warm-ups and first phases


def weighted(method, factor):
    """The method with its weight, or those of its parts, times `factor`."""
    if isinstance(method, distiller.Composition):
        return method.clone(parts=tuple(weighted(part, factor) for part in method.parts))
    return method.clone(weight=factor * method.weight)


def run(method, student, teacher, batch, factor, params=None):
    """Everything that the method says of one case.

    Args:
        params: the method's parameters; None: as `init` makes them, which costs the compiler much.

    Returns:
        A dict: `variables` as `init` makes them, `loss`, `terms`, `memory` after the call, `by_student` (gradients by
        every float of the student's Outputs: logits, features, what the pullback remembers, the classifier) and
        `by_method` (gradients by the method's parameters).
    """
    variables = dict(method.init(keys(), student, teacher, batch))
    own = variables.pop("params", {})
    params = own if params is None else params
    leaves, tree = jax.tree.flatten(student)
    floats = [i for i, x in enumerate(leaves) if jnp.issubdtype(x.dtype, jnp.floating)]

    def loss(values, params):
        changed = list(leaves)
        for i, value in zip(floats, values, strict=True):
            changed[i] = value
        full = {"params": params, **variables} if params else variables
        (loss, terms), memory = asked(weighted(method, factor), full, tree.unflatten(changed), teacher, batch)
        return loss, (terms, dict(memory))

    (value, (terms, memory)), (by_student, by_method) = jax.value_and_grad(loss, (0, 1), has_aux=True)(
        [leaves[i] for i in floats], params
    )
    return {
        "variables": {"params": params, **variables},
        "loss": value,
        "terms": terms,
        "memory": memory,
        "by_student": by_student,
        "by_method": by_method,
    }


def low(outputs):
    """The outputs with features in bfloat16, in every view."""
    features = {tap: x.astype(jnp.bfloat16) for tap, x in outputs.features.items()}
    return outputs.replace(features=features, views=tuple(map(low, outputs.views)))


def blank(outputs):
    features = {tap: jnp.zeros_like(x) for tap, x in outputs.features.items()}
    return outputs.replace(logits=jnp.zeros_like(outputs.logits), features=features)


def sure(outputs, batch):
    """The outputs with logits of 1e5 for one class, the label's or another, in every view."""
    classes = outputs.logits.shape[1]
    predicted = (jnp.maximum(batch.label, 0) + batch.index // 2) % classes
    logits = 1e5 * jax.nn.one_hot(predicted, classes, dtype=outputs.logits.dtype)
    return outputs.replace(logits=logits, views=tuple(view.replace(logits=logits) for view in outputs.views))


@functools.cache
def networks(taps, views, classes, equal_widths, heads=False, tokens=False, projects=False, size=6):
    """Functions (student, teacher) of a batch and the order of its examples, and a batch of `size` examples."""
    asking = types.SimpleNamespace(gradient_taps=taps, views=views)
    batch = make_batch(asking, classes=classes, size=size)
    widths = ((4, 5, 6, 7) if equal_widths else (3, 4, 5, 6)), (4, 5, 6, 7)
    widths = tuple(own[:3] for own in widths) if size == 1 else widths  # two stages
    widths = ((48 if equal_widths else 24), 48) if tokens else widths
    width = widths[1][-1] if projects else 0
    pairs = [player(own, classes, seed, batch.image, heads, width) for seed, own in enumerate(widths, start=1)]
    # one function for both where the widths are equal, so that student and teacher have one structure
    both = [jax.jit(functools.partial(answer, network, method=asking)) for network, _ in pairs]
    both = [both[0], both[0]] if equal_widths else both

    def ask(function, variables, batch, order):
        def reorder(path, x):  # offsets have a row for every example
            return x[order] if jax.tree_util.keystr(path).endswith("_offset']") else x

        return function(jax.tree_util.tree_map_with_path(reorder, variables), batch)

    return [functools.partial(ask, f, variables) for f, (_, variables) in zip(both, pairs, strict=True)], batch


def asked_networks(name, method, size=6):
    """The functions and the batch of `networks` for a method, with the fewest classes that the method takes."""
    classes = 3 if name in NEEDS_THREE_CLASSES else 2
    equal_widths = WHERE_EQUAL.get(name) is not None
    asking = method.gradient_taps, method.views, classes, equal_widths
    kinds = {"heads": name in TWO_HEADS, "tokens": name in TOKENS, "projects": name in PROJECTED}
    (student, teacher), batch = networks(*asking, **kinds, size=size)
    # epochs are counted from the first in which the student learns
    start = 0 if "student" in method.first_phase_learns else method.first_phase_epochs
    return student, teacher, batch.replace(epoch=batch.epoch + start)


def cases(name, method):
    """Case -> (student, teacher, batch, factor of the weight)."""
    student, teacher, batch = asked_networks(name, method)
    equal_widths = WHERE_EQUAL.get(name) is not None
    kept, order = np.arange(len(batch.label)), np.random.RandomState(0).permutation(len(batch.label))
    shuffled = jax.tree.map(lambda x: x[order] if x.ndim else x, batch)
    s, t, one = student(batch, kept), teacher(batch, kept), jnp.float32(1)
    some = jnp.where(batch.index % 2 == 0, batch.label, -1)
    first = [jnp.broadcast_to(x[:1], x.shape) for x in (batch.image, *batch.views)]
    alike = batch.replace(image=first[0], views=tuple(first[1:]))
    found = {
        "plain": (s, t, batch, one),
        "heavier": (s, t, batch, jnp.float32(2.5)),
        "other order": (student(shuffled, order), teacher(shuffled, order), shuffled, one),
        "zero student": (blank(s), t, batch, one),
        "zero teacher": (s, blank(t), batch, one),
        "zeros": (blank(s), blank(t), batch, one),
        SURE: (s, sure(t, batch), batch, one),
        "equal images": (student(alike, 0 * kept), teacher(alike, 0 * kept), alike, one),
        "no labels": (s, t, batch.replace(label=jnp.full_like(batch.label, -1)), one),
        "some labels": (s, t, batch.replace(label=some), one),
        "late": (s, t, batch.replace(epoch=jnp.float32(LATE)), one),
    }
    if equal_widths:
        found["equal"] = (t, t, batch, one)
    return found


@functools.cache
def answers(name):
    """The method, its cases, the program's answers (case -> dict), and what is known of the program itself."""
    method, traces = distiller.create(name), []

    def one(*case):
        traces.append(1)
        return run(method, *case)

    program, asking = jax.jit(jax.vmap(one)), cases(name, method)
    together = jax.tree.map(lambda *x: jnp.stack(x), *asking.values())
    first = jax.device_get(program(*together))
    count = len(traces)
    second = jax.device_get(program(*together))
    backwards = jax.device_get(program(*jax.tree.map(lambda x: x[::-1], together)))
    split = {case: jax.tree.map(lambda x, i=i: x[i], first) for i, case in enumerate(asking)}
    return types.SimpleNamespace(
        method=method,
        cases=asking,
        answers=split,
        first=first,
        second=second,
        backwards=backwards,
        retraced=len(traces) - count,
        shapes=jax.eval_shape(one, *asking["plain"]),
    )


def same(a, b):
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        np.array_equal(x, y, equal_nan=True) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def finite(tree):
    return all(np.isfinite(x).all() for x in jax.tree.leaves(tree))


@pytest.mark.parametrize("name", NAMES)
def test_init_and_apply_are_pure_and_compiled_once(name):
    found = answers(name)
    assert same(found.first, found.second)
    assert not found.retraced


@pytest.mark.parametrize("name", NAMES)
def test_a_case_does_not_depend_on_those_beside_it(name):
    """`jax.vmap` maps the method, and no case reaches another one."""
    found = answers(name)
    losses, backwards = found.first["loss"], found.backwards["loss"][::-1]
    largest = max(abs(answer["loss"]) for case, answer in found.answers.items() if case != SURE)
    np.testing.assert_allclose(backwards, losses, rtol=1e-5, atol=1e-6 * largest)


@pytest.mark.parametrize("name", NAMES)
def test_memory_comes_out_as_it_went_in(name):
    found = answers(name)
    went_in = {key: value for key, value in found.shapes["variables"].items() if key != "params"}
    for tree in (went_in, found.shapes["memory"]):
        assert not any(x.weak_type for x in jax.tree.leaves(tree))  # a weak type compiles the next step anew
    assert went_in == found.shapes["memory"]


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_and_its_terms_are_float32_scalars(name):
    shapes = answers(name).shapes
    assert {(x.shape, x.dtype) for x in (shapes["loss"], *shapes["terms"].values())} == {((), np.dtype("float32"))}


@pytest.mark.parametrize("name", NAMES)
def test_the_student_gets_a_gradient(name):
    plain = answers(name).answers["plain"]
    assert any(np.any(np.abs(g) > 1e-9) for g in plain["by_student"])


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_of_the_method_gets_a_gradient(name):
    found = answers(name)
    plain = found.answers["plain"]["by_method"]
    late = found.answers["late"]["by_method"]
    without = [
        jax.tree_util.keystr(path)
        for (path, g), h in zip(jax.tree_util.tree_leaves_with_path(plain), jax.tree.leaves(late), strict=True)
        if not np.any(g) and not np.any(h)
    ]
    later = {"FT": ("encoder", "decoder"), "FGD": ("mask", "down", "norm")}.get(name, ())  # FGD's `up` starts at 0
    assert not [path for path in without if not any(part in path for part in later)]


@pytest.mark.parametrize("name", NAMES)
def test_loss_and_gradients_are_finite(name):
    """At zero features, a sure teacher, equal images, with labels withheld, late, with the fewest classes."""
    for case, found in answers(name).answers.items():
        assert finite((found["loss"], found["terms"])), case
        assert finite((found["by_student"], found["by_method"], found["memory"])), case


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_batch_of_one_in_bfloat16_has_finite_loss_and_gradients(name):
    method = distiller.create(name)
    student, teacher, batch = asked_networks(name, method, size=1)
    s, t = (low(network(batch, np.arange(1))) for network in (student, teacher))
    random, shapes = np.random.RandomState(0), jax.eval_shape(method.init, keys(), s, t, batch)
    params = jax.tree.map(lambda x: random.uniform(-0.5, 0.5, x.shape).astype(x.dtype), shapes.get("params", {}))
    program = jax.jit(lambda own, its: run(method, own, its, batch, jnp.float32(1), params))
    for case, pair in {"plain": (s, t), "zeros": (blank(s), blank(t)), SURE: (s, sure(t, batch))}.items():
        assert finite(program(*pair)), case


@pytest.mark.parametrize("name", NAMES)
def test_without_labels_a_method_teaches_unless_it_needs_them(name):
    found = answers(name)
    asked = ["no labels", "late"] if found.method.first_phase_epochs else ["no labels"]
    taught = all(any(np.any(g) for g in found.answers[case]["by_student"]) for case in asked)
    assert taught != found.method.needs_labels


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_where_student_equals_teacher_is_known(name):
    assert name in WHERE_EQUAL, f"add a line for {name} to WHERE_EQUAL: its loss where student equals teacher"
    if WHERE_EQUAL[name] is not None:
        found = answers(name).answers
        np.testing.assert_allclose(found["equal"]["loss"], WHERE_EQUAL[name], atol=1e-7)
        assert abs(found["plain"]["loss"] - WHERE_EQUAL[name]) > 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_the_weight_scales_the_loss_and_its_terms(name):
    found = answers(name).answers
    assert found["plain"]["loss"] != 0
    np.testing.assert_allclose(found["heavier"]["loss"], 2.5 * found["plain"]["loss"], rtol=1e-5)
    for term, value in found["plain"]["terms"].items():
        np.testing.assert_allclose(found["heavier"]["terms"][term], 2.5 * value, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_the_batch_matters_only_where_declared(name):
    found = answers(name)
    expected, other = found.answers["plain"]["loss"], found.answers["other order"]["loss"]
    if found.method.order_matters:
        assert abs(other - expected) > 1e-3 * abs(expected)
    else:
        np.testing.assert_allclose(other, expected, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_the_terms_sum_to_the_loss(name):
    for case, found in answers(name).answers.items():
        assert found["terms"]
        np.testing.assert_allclose(sum(found["terms"].values()), found["loss"], rtol=1e-5, atol=1e-7, err_msg=case)
        assert all(any(term.startswith(part) for part in name.split("+")) for term in found["terms"])


# What may be done with bfloat16: nothing that rounds.
EXACT = {
    "argmax",
    "broadcast_in_dim",
    "concatenate",
    "convert_element_type",
    "copy",
    "gather",
    "reshape",
    "rev",
    "slice",
    "split",
    "squeeze",
    "stop_gradient",
    "top_k",
    "transpose",
}


def rounds_in_bfloat16(jaxpr):
    """Names of the operations on bfloat16 that compute, in a jaxpr and those within it."""
    for equation in jaxpr.eqns:
        inner = [x for x in jax.tree.leaves(list(equation.params.values()), is_leaf=is_jaxpr) if is_jaxpr(x)]
        if inner:
            for one in inner:
                yield from rounds_in_bfloat16(getattr(one, "jaxpr", one))
        elif equation.primitive.name not in EXACT:
            low = [x for x in equation.invars if getattr(x.aval, "dtype", None) == jnp.bfloat16]
            yield from (equation.primitive.name for _ in low)


def is_jaxpr(x):
    return isinstance(x, (jax.extend.core.Jaxpr, jax.extend.core.ClosedJaxpr))


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_computed_in_bfloat16_where_the_networks_compute_in_it(name):
    """Read from the traced program: the loss widens what the networks give before the first operation that rounds."""
    found = answers(name)
    student, teacher, batch, _ = found.cases["plain"]

    def lower(outputs):
        outputs = low(outputs)
        views = tuple(lower(view) for view in outputs.views)
        return outputs.replace(logits=outputs.logits.astype(jnp.bfloat16), views=views)

    def loss(student, teacher):
        variables = found.method.init(keys(), student, teacher, batch)
        return asked(found.method, variables, student, teacher, batch)[0]

    traced = jax.make_jaxpr(loss)(lower(student), lower(teacher))
    assert {(x.shape, x.dtype) for x in traced.out_avals} == {((), np.dtype("float32"))}
    assert not set(rounds_in_bfloat16(traced.jaxpr))


@pytest.mark.parametrize("name", NEEDS_THREE_CLASSES)
def test_a_method_that_two_classes_cannot_teach_says_so(name):
    method = distiller.create(name)
    (student, teacher), batch = networks(method.gradient_taps, method.views, 2, True)
    outputs = [network(batch, np.arange(len(batch.label))) for network in (student, teacher)]
    with pytest.raises(ValueError, match=f"{name} needs 3 classes or more and found 2: (?s:.*)Use "):
        jax.eval_shape(functools.partial(method.init, keys()), *outputs, batch)


def test_the_contract_is_asked_of_every_registered_method():
    assert set(distiller.names()) <= set(NAMES)
    assert not set(WHERE_EQUAL) - set(NAMES)
