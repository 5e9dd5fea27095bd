"""When something is due: a pure function, so no test here trains."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.schedule import Due, Schedule

SCHEDULES = st.builds(
    Schedule,
    steps_per_epoch=st.integers(1, 40),
    epochs=st.integers(1, 6),
    log_every=st.integers(1, 50),
    eval_every=st.integers(1, 7),
    keep_epochs=st.integers(0, 4),
    most=st.integers(1, 60),
)


def walk(schedule, step=0):
    """(step, due) after each call, from `step` to the end of the training."""
    calls = []
    while step < schedule.total:
        count, due = schedule.next(step)
        assert 1 <= count <= schedule.most
        step += count
        calls.append((step, due))
    return calls


def asked_for(schedule):
    """Step -> what the attributes ask for after it, written out; steps with nothing to do are left out."""
    total = schedule.epochs * schedule.steps_per_epoch
    found = {}
    for step in range(1, total + 1):
        epoch = step // schedule.steps_per_epoch if step % schedule.steps_per_epoch == 0 else None
        kept = epoch and schedule.keep_epochs and epoch % schedule.keep_epochs == 0
        due = {
            "log": step % schedule.log_every == 0 or step == total,
            "epoch": epoch is not None,
            "test": epoch is not None and (epoch % schedule.eval_every == 0 or epoch == schedule.epochs),
            "keep": bool(kept),
            "end": step == total,
        }
        if any(due.values()):
            found[step] = Due(**due)
    return found


@given(SCHEDULES)
def test_what_is_asked_for_comes_exactly_once_whatever_a_call_may_hold(schedule):
    calls = walk(schedule)
    assert calls[-1][0] == schedule.total
    steps = [step for step, _ in calls]
    assert steps == sorted(set(steps))  # no step twice
    assert {step: due for step, due in calls if due.any} == asked_for(schedule)


@given(SCHEDULES, st.data())
def test_a_run_that_goes_on_anywhere_finds_the_same_due(schedule, data):
    """From any step, also one that no call of the undisturbed run ends at."""
    step = data.draw(st.integers(0, schedule.total - 1))
    rest = {at: due for at, due in asked_for(schedule).items() if at > step}
    assert {at: due for at, due in walk(schedule, step) if due.any} == rest


@given(SCHEDULES)
def test_an_epochs_order_is_not_read_past_its_end(schedule):
    """A call has the order of one epoch, so it ends with the epoch at the latest."""
    step = 0
    for end, _ in walk(schedule):
        assert step // schedule.steps_per_epoch == (end - 1) // schedule.steps_per_epoch
        step = end


def test_nothing_but_a_log_line_is_due_at_the_start():
    due = Schedule(steps_per_epoch=12, epochs=3, keep_epochs=1).due(0)
    assert due == Due(log=True, epoch=False, test=False, keep=False, end=False)


@pytest.mark.parametrize(
    ("most", "steps"), [(1, list(range(1, 25))), (5, [5, 10, 12, 17, 20, 24]), (50, [10, 12, 20, 24])], ids=str
)
def test_calls_by_hand(most, steps):
    schedule = Schedule(steps_per_epoch=12, epochs=2, log_every=10, most=most)
    calls = walk(schedule)
    assert [step for step, _ in calls] == steps
    assert [step for step, due in calls if due.log] == [10, 20, 24]
    assert [step for step, due in calls if due.test] == [12, 24]
