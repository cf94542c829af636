"""Logs as callbacks: what they hold after runs that were broken off too."""

import struct
import sys

import numpy as np
import pytest
from quick import data, evaluate, lines, start, step
from tensorboardX.proto import event_pb2

import funcnets as fn


def reports(history):
    return [
        {"step": int(at)} | {name: values[i] for name, values in history.items()} for i, at in enumerate(history.steps)
    ]


def events(directory):
    """The events of all files of a directory, in the order that TensorBoard reads them in."""
    found = []
    for path in sorted(directory.iterdir()):
        held = path.read_bytes()
        while held:
            (length,) = struct.unpack("<Q", held[:8])  # then its checksum, the event, its checksum
            event = event_pb2.Event()
            event.ParseFromString(held[12 : 12 + length])
            found.append(event)
            held = held[16 + length :]
    return found


def shown(directory):
    """What TensorBoard shows: a session that starts at a step drops what there is of it and of later ones."""
    by_step = {}
    for event in events(directory):
        if event.session_log.status == event_pb2.SessionLog.START:
            by_step = {step: values for step, values in by_step.items() if step < event.step}
        for value in event.summary.value:
            by_step.setdefault(event.step, {})[value.tag] = value.simple_value
    return [{"step": step} | values for step, values in by_step.items()]


def test_lines_are_the_reports(tmp_path):
    path = tmp_path / "runs" / "a" / "log.jsonl"
    run = fn.train.fit(step, start(), data(), epochs=3, evaluate=evaluate, callbacks=[fn.train.json_lines(path)])
    assert lines(path) == reports(run.history)
    assert [list(line) for line in lines(path)] == [["step", "train/loss", "mean", "loss", "seen"]] * 3


def test_numbers_that_json_has_not_are_null(tmp_path):
    log = fn.train.json_lines(tmp_path / "log")
    log(1, {"a": np.nan, "b": -np.inf, "c": 1e300}, None)
    assert lines(tmp_path / "log") == [{"step": 1, "a": None, "b": None, "c": 1e300}]


def test_lines_of_steps_that_are_taken_again_go(tmp_path):
    path = tmp_path / "log"
    log = fn.train.json_lines(path)
    for at in (1, 2, 3):
        log(at, {"a": 1.0}, None)
    with path.open("a") as file:
        file.write('{"step": 4, "a"')  # killed while writing
    log = fn.train.json_lines(path)
    log(3, {"a": 2.0}, None)
    log(4, {"a": 2.0}, None)
    assert lines(path) == [{"step": at, "a": 1.0 if at < 3 else 2.0} for at in (1, 2, 3, 4)]
    log(2, {"a": 3.0}, None)  # a second run in one process
    assert [line["a"] for line in lines(path)] == [1.0, 3.0]
    assert [each.name for each in tmp_path.iterdir()] == ["log"]


@pytest.mark.parametrize("text", ["mine\nand more\n", "[1]\n[2]\n", '{"a": 1}\n{"step": 2}\n'])
def test_another_file_is_left_alone(tmp_path, text):
    path = tmp_path / "log"
    path.write_text(text)
    with pytest.raises(ValueError, match="json_lines takes a file of its own; line 1 of .*/log is no report: give"):
        fn.train.json_lines(path)(5, {}, None)
    assert path.read_text() == text


def test_event_files_are_the_reports(tmp_path):
    board = fn.train.tensorboard(tmp_path / "board")
    assert not (tmp_path / "board").exists()
    run = fn.train.fit(step, start(), data(), epochs=3, evaluate=evaluate, callbacks=[board])
    found, wanted = shown(tmp_path / "board"), reports(run.history)
    assert [list(one) for one in found] == [list(one) for one in wanted]
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(list(one.values()), list(other.values()), rtol=1e-6)
    first, *rest = events(tmp_path / "board")
    assert first.file_version == "brain.Event:2"
    assert all(event.wall_time > 1.7e9 for event in rest)


def test_event_files_after_a_resume(tmp_path):
    for first, value in ((1, 1.0), (3, 2.0)):
        board = fn.train.tensorboard(tmp_path)
        for at in range(first, first + 3):
            board(at, {"a": value}, None)
            assert shown(tmp_path)[-1] == {"step": at, "a": value}  # it is there at once
    assert len(list(tmp_path.iterdir())) == 2
    assert [(one["step"], one["a"]) for one in shown(tmp_path)] == [(1, 1), (2, 1), (3, 2), (4, 2), (5, 2)]
    board(2, {"a": 3.0}, None)
    assert [(one["step"], one["a"]) for one in shown(tmp_path)] == [(1, 1), (2, 3)]


def test_where_there_is_no_tensorboardx(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorboardX.event_file_writer", None)
    with pytest.raises(ImportError, match=r"tensorboard takes tensorboardX: pip install 'funcnets\[train\]'"):
        fn.train.tensorboard(tmp_path)


def test_only_the_first_process_writes(monkeypatch, tmp_path):
    for name in ("json_lines", "tensorboard"):
        monkeypatch.setattr("funcnets.train.fitting.journals.first_process", lambda: False)
        getattr(fn.train, name)(tmp_path / name)(1, {"a": 1.0}, None)
    assert list(tmp_path.iterdir()) == []
