"""What every method promises. A new method is picked up by its name and needs one line in WHERE_EQUAL."""

import functools
import inspect
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import distiller
from registry import summary

# The loss where the student is the teacher; None where it is not 0, not exactly, or not promised (learned connectors).
WHERE_EQUAL = dict.fromkeys(("SoftLogits", "Logits", "DKD", "MLKD", "CTKD", "SDD", "SoftLogits+AT"), 0.0)
WHERE_EQUAL |= dict.fromkeys(("AT", "PKT", "RKD", "SP", "CC", "IRG", "AFD", "NST", "FSP", "KDSVD"), 0.0)
WHERE_EQUAL |= dict.fromkeys(("ExpKD", "E2KD", "CATKD", "LwM", "GradAT", "ExplanationMatch"), 0.0)
WHERE_EQUAL |= dict.fromkeys(("NKD", "OFA", "ReviewKD", "CRD", "SRD", "VkD", "WKDFeature", "AB"))
WHERE_EQUAL |= dict.fromkeys(("FitNet", "FT", "VID", "OFD"))
WHERE_EQUAL["DIST"] = None  # 1e-8 in the correlation's denominator; tests/distiller/test_dist.py has the bound
WHERE_EQUAL["WKDLogit"] = None  # a cross-entropy and an entropic transport cost
NAMES = [*distiller.names(), "SoftLogits+AT"]


@pytest.fixture(scope="module")
def built(pair, batch):
    """name -> method, its variables, both networks' outputs and one compiled apply; made once a name."""
    cache = {}

    def build(name):
        if name not in cache:
            method = distiller.create(name)
            networks = pair(method.gradient_taps)
            student, teacher = networks.student(batch.image), networks.teacher(batch.image)
            variables, traces = init(method, student, teacher, batch), []

            def run(*arguments):
                traces.append(1)
                return apply(method, *arguments)

            cache[name] = types.SimpleNamespace(
                method=method,
                networks=networks,
                student=student,
                teacher=teacher,
                variables=variables,
                run=jax.jit(run),
                traces=traces,
                slopes=jax.jit(slopes_of(method)),
            )
        return cache[name]

    return build


def init(method, student, teacher, batch):
    return jax.jit(method.init)({"params": jax.random.key(0), "method": jax.random.key(1)}, student, teacher, batch)


def apply(method, variables, student, teacher, batch):
    """(loss, terms), and what the method remembers, as the strategies call it.

    Epochs are counted from the first in which the student learns.
    """
    start = 0 if "student" in method.first_phase_learns else method.first_phase_epochs
    batch = batch.replace(epoch=batch.epoch + start)
    mutable = [collection for collection in variables if collection != "params"]
    return method.apply(variables, student, teacher, batch, rngs={"method": jax.random.key(2)}, mutable=mutable)


def slopes_of(method):
    """(variables, student, teacher, batch) -> loss, its gradients by every float in student's and teacher's Outputs.

    That is by logits, features, what the pullback remembers and the classifier's weights; the teacher stands behind
    stop_gradient, as the strategies put it.
    """

    def slopes(variables, student, teacher, batch):
        leaves, trees = zip(*(jax.tree.flatten(outputs) for outputs in (student, teacher)), strict=True)
        floats = [{i: x for i, x in enumerate(part) if jnp.issubdtype(x.dtype, jnp.floating)} for part in leaves]

        def loss(floats):
            outputs = [
                tree.unflatten([own.get(i, x) for i, x in enumerate(part)])
                for tree, part, own in zip(trees, leaves, floats, strict=True)
            ]
            return apply(method, variables, outputs[0], jax.lax.stop_gradient(outputs[1]), batch)[0][0]

        return jax.value_and_grad(loss)(floats)

    return slopes


def loss_of(thing, student, teacher, batch):
    return thing.run(thing.variables, student, teacher, batch)[0][0]


def same(a, b):
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


@pytest.mark.parametrize("name", NAMES)
def test_init_and_apply_are_pure(name, built, batch):
    thing = built(name)
    again = init(thing.method, thing.student, thing.teacher, batch)
    assert same(thing.variables, again)
    first = thing.run(thing.variables, thing.student, thing.teacher, batch)
    second = thing.run(thing.variables, thing.student, thing.teacher, batch)
    assert same(first, second)
    assert same(thing.variables, again)


@pytest.mark.parametrize("name", NAMES)
def test_memory_comes_out_as_it_went_in(name, built, batch):
    thing = built(name)
    _, memory = thing.run(thing.variables, thing.student, thing.teacher, batch)
    went_in = {collection: value for collection, value in thing.variables.items() if collection != "params"}
    shapes = [jax.tree.map(lambda x: (x.shape, x.dtype), dict(tree)) for tree in (went_in, memory)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("name", NAMES)
def test_the_second_call_does_not_recompile(name, built, batch):
    thing = built(name)
    thing.run(thing.variables, thing.student, thing.teacher, batch)
    count = len(thing.traces)
    other = thing.networks.student(batch.image[::-1])
    thing.run(thing.variables, other, thing.teacher, batch.replace(epoch=batch.epoch + 1.0))
    assert len(thing.traces) == count > 0


@pytest.mark.parametrize("name", NAMES)
def test_the_student_gets_a_gradient_and_the_teacher_none(name, built, batch):
    thing = built(name)
    loss, (to_student, to_teacher) = thing.slopes(thing.variables, thing.student, thing.teacher, batch)
    np.testing.assert_allclose(loss, loss_of(thing, thing.student, thing.teacher, batch), rtol=1e-5)
    assert all(np.isfinite(g).all() for g in to_student.values())
    assert any(np.any(g) for g in to_student.values())
    assert to_teacher
    assert not any(np.any(g) for g in to_teacher.values())


@pytest.mark.parametrize("zero", ["student", "teacher", "both"])
@pytest.mark.parametrize("name", NAMES)
def test_loss_and_gradients_are_finite_at_zero(name, zero, built, batch):
    thing = built(name)

    def blank(outputs, who):
        if zero not in (who, "both"):
            return outputs
        features = {tap: jnp.zeros_like(x) for tap, x in outputs.features.items()}
        return outputs.replace(logits=jnp.zeros_like(outputs.logits), features=features)

    student, teacher = blank(thing.student, "student"), blank(thing.teacher, "teacher")
    loss, gradients = thing.slopes(thing.variables, student, teacher, batch)
    assert np.isfinite(loss)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_where_student_equals_teacher_is_known(name, built, batch):
    assert name in WHERE_EQUAL, f"add a line for {name} to WHERE_EQUAL: its loss where student equals teacher"
    thing, expected = built(name), WHERE_EQUAL[name]
    student = thing.student
    variables = init(thing.method, student, student, batch)
    found, _ = thing.run(variables, student, student, batch)[0]
    apart = loss_of(thing, thing.student, thing.teacher, batch)
    assert np.isfinite(found)
    if expected is not None:
        np.testing.assert_allclose(found, expected, atol=1e-7)
        assert abs(apart - expected) > 1e-5


def weighted(name, factor):
    """The method with its weight, or those of its parts, times `factor`."""
    weights = {part: {"weight": factor * distiller.create(part).weight} for part in name.split("+")}
    return distiller.create(name, **(weights if "+" in name else weights[name]))


@pytest.mark.parametrize("name", NAMES)
def test_the_weight_scales_the_loss(name, built, batch):
    thing = built(name)
    one, terms = thing.run(thing.variables, thing.student, thing.teacher, batch)[0]
    method = weighted(name, 2.5)
    run = jax.jit(functools.partial(apply, method))
    (scaled, scaled_terms), _ = run(thing.variables, thing.student, thing.teacher, batch)
    assert one != 0
    np.testing.assert_allclose(scaled, 2.5 * one, rtol=1e-5)
    for term, value in terms.items():
        np.testing.assert_allclose(scaled_terms[term], 2.5 * value, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_the_batch_matters_only_where_declared(name, built, batch):
    thing = built(name)
    order = np.random.RandomState(0).permutation(len(batch.label))
    image = batch.image[order]
    shuffled = batch.replace(image=image, label=batch.label[order], index=batch.index[order])
    student, teacher = thing.networks.student(image), thing.networks.teacher(image)
    expected = loss_of(thing, thing.student, thing.teacher, batch)
    found = loss_of(thing, student, teacher, shuffled)
    if thing.method.order_matters:
        assert abs(found - expected) > 1e-3 * abs(expected)
    else:
        np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_the_terms_sum_to_the_loss(name, built, batch):
    thing = built(name)
    loss, terms = thing.run(thing.variables, thing.student, thing.teacher, batch)[0]
    assert terms
    np.testing.assert_allclose(sum(terms.values()), loss, rtol=1e-6)
    assert all(any(term.startswith(part) for part in name.split("+")) for term in terms)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", NAMES)
def test_the_loss_is_a_float32_scalar_and_computed_as_one(name, dtype, built, batch):
    thing = built(name)

    def cast(outputs):
        """Rounded to bfloat16, and kept as `dtype`: the numbers are the same in both."""
        low = jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(dtype), (outputs.logits, outputs.features))
        return outputs.replace(logits=low[0], features=low[1])

    loss, terms = thing.run(thing.variables, cast(thing.student), cast(thing.teacher), batch)[0]
    assert {(x.shape, x.dtype) for x in (loss, *terms.values())} == {((), jnp.dtype("float32"))}

    def wide(outputs):
        outputs = cast(outputs)
        features = {tap: x.astype(jnp.float32) for tap, x in outputs.features.items()}
        return outputs.replace(logits=outputs.logits.astype(jnp.float32), features=features)

    np.testing.assert_allclose(loss, loss_of(thing, wide(thing.student), wide(thing.teacher), batch), rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_vmap_equals_a_loop(name, built, batch):
    thing = built(name)
    if thing.method.gradient_taps:
        pytest.skip("outputs with pullbacks are mapped inside the step only")
    students = [thing.networks.student(image) for image in (batch.image, 1 - batch.image)]
    teacher = thing.teacher
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *students)
    run = jax.jit(jax.vmap(lambda s: apply(thing.method, thing.variables, s, teacher, batch)[0][0]))
    expected = [loss_of(thing, student, teacher, batch) for student in students]
    # of the students' losses, which may lie close together, either must be told from the other
    apart, size = abs(expected[0] - expected[1]), abs(expected[0])
    assert apart > 1e-5 * size
    np.testing.assert_allclose(run(stacked), jnp.stack(expected), rtol=0, atol=min(1e-3 * size, apart / 10))


@pytest.mark.parametrize("name", distiller.names())
def test_the_docstring_says_what_and_where_from(name):
    method = distiller.registry.get(name)
    line, paper = summary(method)
    assert 20 < len(line) < 120
    assert line.endswith(".")
    assert paper, f"{name}'s docstring has no 'Paper:' line"
    module = inspect.getdoc(inspect.getmodule(method))
    assert "Paper:" in module
    assert "loss =" in module


@pytest.mark.parametrize("name", NAMES)
def test_the_weights_are_the_methods_declaration(name):
    method = distiller.create(name)
    assert method.weight > 0
    assert method.ce_weight >= 0
    assert isinstance(method.gradient_taps, tuple)
