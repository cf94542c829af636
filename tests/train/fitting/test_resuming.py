"""Runs that are broken off and started again, against one that was left alone; and what signals do to them."""

import contextlib
import functools
import itertools
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import program
import pytest
import quick
from program import Faulty, fit
from quick import data, lines, same_run, start, step

import funcnets as fn
from funcnets.train.data import Stream


class Broken(BaseException):
    """The end of a process, as far as a test without processes can have it."""


class Mistake(Exception):
    """One in what the program gave to fit."""


def breaking(function, at, calls=None, error=Broken):
    """The function, which breaks in that of its calls."""
    calls = itertools.count() if calls is None else calls

    @functools.wraps(function)
    def broken(*given):
        if next(calls) == at:
            raise error
        return function(*given)

    return broken


def finished(directory, **given):
    return fit(directory, **given), lines(directory / "log.jsonl")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return finished(tmp_path_factory.mktemp("alone"), every=2, epochs=1)


@pytest.mark.parametrize("error", [Broken, Mistake])
@pytest.mark.parametrize("what", ["step", "evaluate", "callback"])
def test_a_run_that_breaks_anywhere_ends_as_one_left_alone(tmp_path, monkeypatch, alone, what, error):
    for at in range(5 if what == "step" else 3):
        directory, calls = tmp_path / str(at), itertools.count()
        broken = {
            "step": lambda at=at: monkeypatch.setattr(quick, "step", breaking(step, at, error=error)),
            "evaluate": lambda at=at: {"evaluate": breaking(quick.evaluate, at, error=error)},
            "callback": lambda at=at, calls=calls: {"callbacks": [breaking(lambda *_: None, at, calls, error)]},
        }[what]()
        with pytest.raises(error):
            fit(directory, every=2, epochs=1, **(broken or {}))
        monkeypatch.undo()
        if error is Mistake:  # and nothing is lost
            done = at if what == "step" else (2, 4, 5)[at]
            assert fn.Checkpoints(directory / "steps").steps()[-1:] == ((done,) if done else ())
        run, log = finished(directory, every=2, epochs=1)
        same_run(run, alone[0])
        assert log == alone[1]


def test_a_run_that_is_resumed_often_ends_as_one_left_alone(tmp_path):
    """With an iterator, whose place is saved too; and saved less often than it is reported."""
    log = tmp_path / "log.jsonl"

    def run(**given):
        given = {"steps": 5, "every": 1, "best": "loss", "evaluate": quick.evaluate} | given
        return fn.train.fit(step, start(), data().stream(), **given)

    def break_at(last):
        def callback(step, *_):
            if step == last:
                raise Broken

        return callback

    for last in range(1, 6):
        with pytest.raises(Broken):
            checkpoints = fn.Checkpoints(tmp_path / "steps", every=2)
            run(checkpoints=checkpoints, callbacks=[fn.train.json_lines(log), break_at(last)])
        assert checkpoints.steps() == ((), (), (2,), (2,), (2, 4))[last - 1]
    same_run(run(checkpoints=checkpoints, callbacks=[fn.train.json_lines(log)]), run())
    assert [line["step"] for line in lines(log)] == [1, 2, 3, 4, 5]
    assert checkpoints.steps() == (2, 4, 5)


def test_nets_too_with_calls_of_several_steps(tmp_path):
    x = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    net = fn.Sequential(fn.BatchNorm(), fn.Dropout(0.5), fn.Dense(1))
    optimizer = optax.sgd(optax.linear_schedule(0.1, 0.0, 10), momentum=0.9)
    full = fn.train.make_step(net, lambda model, x: (model(x) ** 2).mean(), optimizer, steps_per_call=3)

    def run(directory, **given):
        state = fn.train.create(net, optimizer, jax.random.key(0), x[:1])
        stream = fn.train.prefetch(fn.train.batches(x, 8, jax.random.key(1)).stream())
        checkpoints = fn.Checkpoints(tmp_path / directory, net=net, best="loss", keep=2)
        given = {"every": 4, "best": "loss", "checkpoints": checkpoints} | given
        return fn.train.fit(full, state, stream, steps=10, **given)

    whole = run("whole")
    for at in (1, 2):
        with pytest.raises(Broken):
            run(f"broken{at}", callbacks=[breaking(lambda *_: None, at)])
        same_run(run(f"broken{at}"), whole)
    saved = fn.Checkpoints(tmp_path / "whole", best="loss")
    assert saved.best_step == whole.history.best_step == int(whole.best.step)
    quick.same(saved.restore(whole.state, under="best"), whole.best)


def test_a_finished_run_does_nothing_more(tmp_path):
    run, log = finished(tmp_path, epochs=2)
    assert fn.Checkpoints(tmp_path / "steps").steps() == (5, 10)

    def fail(*_):
        raise AssertionError

    again = fit(tmp_path, epochs=2, evaluate=fail, callbacks=[fail])
    same_run(again, run)
    assert again.stopped == "finished" and lines(tmp_path / "log.jsonl") == log
    more = fit(tmp_path, epochs=3)
    assert more.history.steps.tolist() == [5, 10, 15]


def test_what_ended_a_run_ends_it_again(tmp_path):
    stop = lambda step, metrics, state: step == 10  # noqa: E731
    run = fit(tmp_path, callbacks=[stop])
    again = fit(tmp_path, callbacks=[stop])
    same_run(again, run)
    assert run.stopped == again.stopped == "callback" and run.history.steps.tolist() == [5, 10]
    assert [line["step"] for line in lines(tmp_path / "log.jsonl")] == [5, 10]
    going = fit(tmp_path)
    assert going.stopped == "finished" and going.history.steps.tolist() == [5, 10, 15, 20]


def test_patience_is_counted_over_all(tmp_path):
    values = {1: 3.0, 2: 1.0, 3: 2.0, 4: 2.0, 5: 2.0, 6: 0.0}
    given = {"steps": 6, "epochs": None, "every": 1, "evaluate": lambda state: {"loss": values[state["step"]]}}
    with pytest.raises(Broken):
        fit(tmp_path, patience=3, callbacks=[breaking(lambda *_: None, 3)], **given)
    for _ in range(2):
        run = fit(tmp_path, patience=3, **given)
        assert (run.stopped, run.state["step"], run.best["step"]) == ("patience", 5, 2)
    run = fit(tmp_path, patience=4, **given)
    assert (run.stopped, run.state["step"], run.best["step"]) == ("finished", 6, 6)


def test_runs_that_cannot_be_gone_on_with(tmp_path):
    fit(tmp_path, epochs=1)
    generator = (data()[i] for i in range(20))
    with pytest.raises(ValueError, match=r"goes on from step 5 in .*/steps, and this data cannot be brought to where"):
        fit(tmp_path, generator, epochs=None, steps=20, every=5)
    assert fit(tmp_path, generator, epochs=None, steps=5, every=5).stopped == "finished"
    with pytest.raises(ValueError, match=r"this run goes by best=\('loss', 'min'\), got best=\('seen', 'max'\): go on"):
        fit(tmp_path, best=("seen", "max"))
    with pytest.raises(ValueError, match=r"the run in .*/steps goes by best=\('loss', 'min'\), got best=None: go on"):
        fit(tmp_path, best=None)
    says = "this run was saved with train.batches as its data, of which no place is kept, and got an iterator, which"
    with pytest.raises(ValueError, match=says):
        fit(tmp_path, data().stream())
    with pytest.raises(ValueError, match="  state/more: checkpoint nothing, model float64") as raised:
        fit(tmp_path, state=start() | {"more": np.zeros(())})
    (note,) = raised.value.__notes__
    assert "give it the net, optimizer, data and best= that this run had, or checkpoints in another" in note
    checkpoints, more = fn.Checkpoints(tmp_path / "steps"), start() | {"more": np.zeros(())}
    fitting, _ = checkpoints.restore(more, under="state", strict=False)
    assert fitting["step"] == 5  # as the note says
    with fn.Checkpoints(tmp_path / "by hand") as by_hand:
        by_hand.save(3, start())
    says = r"goes on from what it saved itself, and .*/by hand holds \['seen', 'step', 'total'\]: restore that, state ="
    with pytest.raises(ValueError, match=says):
        fit(tmp_path, checkpoints=tmp_path / "by hand")


def test_the_best_may_be_asked_for_later(tmp_path):
    values = {5: 1.0, 10: 3.0, 15: 2.0, 20: 2.5, 25: 2.5, 30: 0.0}
    evaluate = lambda state: {"loss": values[state["step"]]}  # noqa: E731
    fit(tmp_path, epochs=1, best=None, evaluate=evaluate)
    assert fit(tmp_path, epochs=1, evaluate=evaluate).best is None
    for epochs in (2, 4):
        run = fit(tmp_path, epochs=epochs, evaluate=evaluate)
    assert (run.history.best_step, run.best["step"], run.history.best_value) == (15, 15, 2.0)
    fit(tmp_path / "patient", epochs=1, best=None, evaluate=evaluate)
    run = fit(tmp_path / "patient", epochs=6, patience=2, evaluate=evaluate)
    assert (run.stopped, run.state["step"]) == ("patience", 25)


def test_the_best_by_a_name_that_there_is_not_loses_nothing(tmp_path):
    with pytest.raises(ValueError, match="got 'losss' .did you mean 'loss'.*"):
        fit(tmp_path, best="losss")
    assert fn.Checkpoints(tmp_path / "steps").steps() == (5,)
    same_run(fit(tmp_path), fit(tmp_path / "whole"))
    checkpoints = fn.Checkpoints(tmp_path / "other", best="sean")
    with pytest.raises(ValueError, match="got 'sean' .did you mean 'seen'.*"):
        fn.train.fit(step, start(), data(), epochs=1, evaluate=quick.evaluate, checkpoints=checkpoints)
    assert checkpoints.steps() == (5,)


def test_data_that_has_changed_is_said(tmp_path):
    fit(tmp_path, epochs=1)
    for other, says in (
        (fn.train.batches(quick.ROWS, 4, quick.KEY, partial="keep"), None),  # of 20 rows
        (fn.train.batches(quick.ROWS, 2, jax.random.key(1)), r"batch_size 4 -> 2, key \[0, 7\] -> \[0, 1\], steps in"),
        (fn.train.batches(quick.ROWS[:16], 4), r"step 5: examples 20 -> 16, key \[0, 7\] -> None, steps in .* 5 -> 4"),
        ([quick.ROWS[:4]] * 5, "kind train.batches -> list"),
    ):
        directory = tmp_path / str(says)[:5]
        shutil.copytree(tmp_path / "steps", directory)
        broken = {"step": breaking(step, 0), "checkpoints": directory, "epochs": 9}
        warns = contextlib.nullcontext([]) if says is None else pytest.warns(UserWarning, match=says)
        with warns as caught, pytest.raises(Broken):
            fit(tmp_path, other, **broken)
        assert [one.filename for one in caught] == [program.__file__] * (says is not None)
    same_run(fit(tmp_path), fit(tmp_path / "whole"))
    fit(tmp_path / "stream", data().stream(), epochs=1)
    with pytest.warns(UserWarning, match="goes on with it from step 5: kind an iterator -> train.batches"):
        same_run(fit(tmp_path / "stream"), fit(tmp_path / "whole"))


@pytest.mark.parametrize(("every", "saved"), [(1, (3, 6, 9, 10)), (5, (6, 10)), (9, (9, 10)), (50, (10,))])
def test_where_checkpoints_have_an_interval_of_their_own(tmp_path, every, saved):
    checkpoints = fn.Checkpoints(tmp_path, every=every, keep=None)
    fn.train.fit(step, start(), data(), steps=10, every=3, checkpoints=checkpoints)
    assert checkpoints.steps() == saved


def test_checkpoints_are_let_go(tmp_path):
    with pytest.raises(Broken):
        fit(tmp_path, every=2, callbacks=[breaking(lambda *_: None, 1)])
    assert fn.Checkpoints(tmp_path / "steps").steps() == (2,)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_loader_goes_on_from_an_epochs_end(tmp_path):
    class Loader:
        def __len__(self):
            return 5

        def __iter__(self):
            return (data()[i] for i in range(5))

    fit(tmp_path, Loader(), epochs=2)
    run = fit(tmp_path, Loader(), epochs=4)
    same_run(run, fit(tmp_path / "whole", Loader(), epochs=4))
    fit(tmp_path / "middle", Loader(), epochs=None, steps=7)
    with pytest.raises(ValueError, match="goes on from step 7 in .*; what has a length .* from an epoch's end .delete"):
        fit(tmp_path / "middle", Loader(), epochs=4)


def test_a_name_stands_for_one_thing(tmp_path):
    without, given = {"evaluate": None}, {"every": 5, "epochs": 2}
    for directory, before, after, says in (
        (
            "added",
            without,
            {},
            "'loss' is a mean over steps in the reports up to step 5, and would be evaluation's from",
        ),
        ("dropped", {}, without, "'loss' is evaluation's in the reports up to step 5, and would be a mean over steps"),
    ):
        fit(tmp_path / directory, epochs=1, **before)
        with pytest.raises(ValueError, match=f"{says}.*: give fit the evaluate= that it had, or one that uses other"):
            fit(tmp_path / directory, **given, **after)
        run = fit(tmp_path / directory, **given, **before)  # and nothing is lost
        same_run(run, fit(tmp_path / directory / "whole", **given, **before))
    other = {"best": "mean", "evaluate": lambda state: {"other": 1.0}}  # which is in nobody's way
    for epochs, evaluate in ((1, None), (2, other["evaluate"]), (3, None), (4, other["evaluate"])):
        run = fit(tmp_path / "other", **other | {"epochs": epochs, "evaluate": evaluate})
    assert list(run.history) == ["loss", "mean", "other"]
    np.testing.assert_array_equal(run.history["other"], [np.nan, 1, np.nan, 1])


# Exceptions


def test_an_exception_has_the_run(tmp_path):
    whole = fit(tmp_path / "whole")
    evaluate, callback = (breaking(one, 1, error=Mistake) for one in (quick.evaluate, lambda *_: None))
    for given in ({"evaluate": evaluate}, {"callbacks": [callback]}):
        with pytest.raises(Mistake) as raised:
            fit(tmp_path, checkpoints=None, **given)
        run = raised.value.run
        quick.same((run.state, run.best), (quick.by_hand(10)[0][9], quick.by_hand(5)[0][4]))
        assert (run.stopped, run.history.steps.tolist()) == ("raised", [5])
        quick.same(run.history.training["loss"], whole.history.training["loss"][:10])
        assert "the run as it was after 10 steps is this exception's attribute `run`" in raised.value.__notes__
        quick.same(fit(tmp_path, checkpoints=None, state=run.state).state, whole.state)


def test_a_state_that_is_gone_is_not_handed_over_or_saved(tmp_path):
    def failing(state, batch):
        for leaf in jax.tree.leaves(state) * (int(state["step"]) == 3):
            leaf.delete()  # as a step does that fails when it runs
        return {"step": state["step"] + 1}, {"loss": batch.mean()}

    for checkpoints in (None, fn.Checkpoints(tmp_path)):
        with pytest.raises(RuntimeError, match="deleted") as raised:
            fn.train.fit(failing, {"step": jnp.asarray(0)}, data(), steps=9, every=2, checkpoints=checkpoints)
        assert not hasattr(raised.value, "run")
        assert any("step 3 could not be saved: this state was consumed" in n for n in raised.value.__notes__) == bool(
            checkpoints
        )
    assert checkpoints.steps() == (2,)


def test_of_several_processes_none_saves_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(Mistake) as raised:
        fit(tmp_path, every=2, callbacks=[breaking(lambda *_: None, 0, error=Mistake)])
    monkeypatch.undo()
    assert raised.value.run.state["step"] == 2 and fn.Checkpoints(tmp_path / "steps").steps() == ()


def test_nothing_is_saved_before_the_first_step(tmp_path):
    with pytest.raises(TypeError):
        fit(tmp_path, step=lambda state, batch: None)
    assert fn.Checkpoints(tmp_path / "steps").steps() == ()


# Signals


def sending(number, times=1):
    """The step, which sends the signal at the eighth."""

    def sending_step(state, batch):
        for _ in range(times * (state["step"] == 7)):
            os.kill(os.getpid(), number)
        return step(state, batch)

    return sending_step


ENDS = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 143, signal.SIGINT: -signal.SIGINT}


@pytest.mark.parametrize("number", ENDS, ids=lambda number: number.name)
def test_a_process_that_is_ended_and_started_again(tmp_path, number):
    whole = finished(tmp_path / "whole")
    root = pathlib.Path(fn.__file__).parent.parent
    here = pathlib.Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": f"{root}:{here}", "JAX_PLATFORMS": "cpu", "FAULT": f"12,{int(number)}"}
    command = [sys.executable, str(here / "program.py"), str(tmp_path)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stdout) == (ENDS[number], ""), ended.stderr
    says = {
        signal.SIGINT: "\nTraining ends after the step under way; interrupt again to leave at once.\nTraceback"
    }.get(number, "")
    assert ended.stderr.startswith(says) and bool(ended.stderr) == (number == signal.SIGINT)
    steps = fn.Checkpoints(tmp_path / "steps").steps()
    assert steps == ((5, 10, 12) if number != signal.SIGKILL else steps[:2])  # 10 may not have been written yet
    run, log = finished(tmp_path)
    same_run(run, whole[0])
    assert log == whole[1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_evaluation_is_broken_off_and_made_again(tmp_path, alone, handlers, capsys, number):
    def long(state):
        os.kill(os.getpid(), number)
        time.sleep(60)

    with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else SystemExit) as raised:
        fit(tmp_path, evaluate=long, every=2, epochs=1)
    assert number == signal.SIGINT or raised.value.code == 143
    assert ("interrupt again" in capsys.readouterr().err) == (number == signal.SIGINT)
    assert fn.Checkpoints(tmp_path / "steps").steps() == (2,)
    run, log = finished(tmp_path, every=2, epochs=1)
    same_run(run, alone[0])
    assert log == alone[1]


def test_at_a_prompt_ctrl_c_gives_the_run(tmp_path, handlers, monkeypatch):
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    run = fit(tmp_path, checkpoints=None, step=sending(signal.SIGINT))
    assert (run.stopped, run.state["step"], run.best["step"]) == ("interrupted", 8, 5)
    assert run.history.training.steps.tolist() == list(range(1, 9))
    quick.same(run.state, quick.by_hand(8)[0][7])
    with pytest.raises(SystemExit):
        fit(tmp_path, Faulty(7, signal.SIGTERM), checkpoints=None)


def test_the_second_signal_has_its_effect_at_once(tmp_path, handlers):
    with pytest.raises(KeyboardInterrupt) as raised:
        fit(tmp_path, step=sending(signal.SIGINT, 2))
    assert raised.value.run.state["step"] == 7
    assert fn.Checkpoints(tmp_path / "steps").steps() == (5,)
    with pytest.raises(SystemExit, match="143"):
        fit(tmp_path, step=sending(signal.SIGTERM, 2))
    assert fn.Checkpoints(tmp_path / "steps").steps() == (5,)


@pytest.mark.parametrize("per_call", [1, 3])
def test_waiting_for_data_is_broken_off(tmp_path, handlers, per_call):
    """At a place that the run goes on from with no batch lost or taken twice."""

    def several(state, batches):
        found = []
        for batch in batches if per_call > 1 else [batches]:
            state, metrics = step(state, batch)
            found.append(metrics)
        return state, jax.tree.map(lambda *each: np.array(each), *found) if per_call > 1 else found[0]

    several.steps_per_call, several.single = per_call, step

    class Hanging(Stream):
        def __next__(self):
            if self.get_state() == {"step": 7}:
                threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
                time.sleep(60)
            return super().__next__()

    def run(stream, directory):
        checkpoints = fn.Checkpoints(tmp_path / directory)
        return fn.train.fit(several, start(), stream, steps=10, every=5, checkpoints=checkpoints)

    began = time.monotonic()
    with pytest.raises(SystemExit, match="143"):
        run(Hanging(data(), 0), "broken")
    assert time.monotonic() < began + 30
    assert fn.Checkpoints(tmp_path / "broken").steps() == ((5, 7) if per_call == 1 else (5,))
    same_run(run(data().stream(), "broken"), run(data().stream(), "whole"))


def test_what_was_taken_of_an_iterator_and_not_used_is_put_back(handlers, monkeypatch):
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)

    class Interrupted(Stream):
        def __next__(self):
            if self.get_state() == {"step": 4}:
                os.kill(os.getpid(), signal.SIGINT)
            return super().__next__()

    stacked = lambda state, batches: ({"step": state["step"] + 3}, {"loss": batches.mean(1)})  # noqa: E731
    stacked.steps_per_call = 3
    stream = Interrupted(data(), 0)
    run = fn.train.fit(stacked, {"step": 0}, stream, steps=9, every=3)
    assert (run.stopped, run.state, stream.get_state()) == ("interrupted", {"step": 3}, {"step": 3})


def test_a_signal_counts_whatever_a_callback_raises(tmp_path, handlers, capsys):
    def callback(*_):
        os.kill(os.getpid(), signal.SIGTERM)
        raise Mistake("mine")

    with pytest.raises(SystemExit, match="143") as raised:
        fit(tmp_path, callbacks=[callback])
    assert isinstance(raised.value.__context__, Mistake) and "Mistake: mine" in capsys.readouterr().err
    assert fn.Checkpoints(tmp_path / "steps").steps() == (5,)


def test_handlers_of_the_program_are_called_after_the_save(tmp_path, handlers):
    called = []
    signal.signal(signal.SIGTERM, lambda *_: called.append(fn.Checkpoints(tmp_path / "steps").steps()))
    run = fit(tmp_path, Faulty(7, signal.SIGTERM))
    assert (run.stopped, run.state["step"], called) == ("interrupted", 7, [(5, 7)])
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    assert fit(tmp_path, Faulty(8, signal.SIGTERM)).stopped == "finished"
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
