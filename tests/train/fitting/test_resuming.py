"""Runs that are broken off and started again, against one that was left alone; and what signals do to them."""

import functools
import itertools
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import optax
import pytest
import quick
from program import Faulty, fit
from quick import data, lines, same_run, start, step

import funcnets as fn


class Broken(Exception):
    """The end of a process, as far as a test without processes can have it."""


def breaking(function, at, calls=None):
    """The function, which breaks in that of its calls."""
    calls = itertools.count() if calls is None else calls

    @functools.wraps(function)
    def broken(*given):
        if next(calls) == at:
            raise Broken
        return function(*given)

    return broken


def finished(directory, **given):
    return fit(directory, **given), lines(directory / "log.jsonl")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return finished(tmp_path_factory.mktemp("alone"), every=2, epochs=1)


@pytest.mark.parametrize("what", ["step", "evaluate", "callback"])
def test_a_run_that_breaks_anywhere_ends_as_one_left_alone(tmp_path, monkeypatch, alone, what):
    for at in range(5 if what == "step" else 3):
        directory, calls = tmp_path / str(at), itertools.count()
        broken = {
            "step": lambda at=at: monkeypatch.setattr(quick, "step", breaking(step, at)),
            "evaluate": lambda at=at: {"evaluate": breaking(quick.evaluate, at)},
            "callback": lambda at=at, calls=calls: {"callbacks": [breaking(lambda *_: None, at, calls)]},
        }[what]()
        with pytest.raises(Broken):
            fit(directory, every=2, epochs=1, **(broken or {}))
        monkeypatch.undo()
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
    with pytest.raises(ValueError, match="best"):
        fit(tmp_path, best=None)


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


# Signals


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
    assert steps == ((5, 10, 13) if number != signal.SIGKILL else steps[:2])  # 10 may not have been written yet
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
    run = fit(tmp_path, Faulty(7, signal.SIGINT), checkpoints=None)
    assert (run.stopped, run.state["step"], run.best["step"]) == ("interrupted", 8, 5)
    assert run.history.training.steps.tolist() == list(range(1, 9))
    quick.same(run.state, quick.by_hand(8)[0][7])
    with pytest.raises(SystemExit):
        fit(tmp_path, Faulty(7, signal.SIGTERM), checkpoints=None)


def test_the_second_signal_has_its_effect_at_once(tmp_path, handlers):
    class Hanging(Faulty):
        def __getitem__(self, step):
            for _ in range(2 * (step == 7)):
                os.kill(os.getpid(), self.number)
            return self.data[step]

    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, Hanging(7, signal.SIGINT))
    assert fn.Checkpoints(tmp_path / "steps").steps() == (5,)
    with pytest.raises(SystemExit, match="143"):
        fit(tmp_path, Hanging(7, signal.SIGTERM))
    assert fn.Checkpoints(tmp_path / "steps").steps() == (5,)


def test_handlers_of_the_program_are_called_after_the_save(tmp_path, handlers):
    called = []
    signal.signal(signal.SIGTERM, lambda *_: called.append(fn.Checkpoints(tmp_path / "steps").steps()))
    run = fit(tmp_path, Faulty(7, signal.SIGTERM))
    assert (run.stopped, run.state["step"], called) == ("interrupted", 8, [(5, 8)])
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    assert fit(tmp_path, Faulty(8, signal.SIGTERM)).stopped == "finished"
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
