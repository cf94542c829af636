"""The bar: where somebody sees it, and not elsewhere."""

import io
import sys
import types

import pytest
from quick import data, evaluate, start, step

import funcnets as fn


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown(monkeypatch, stream, **given):
    """What a run writes to its stderr."""
    monkeypatch.setattr(sys, "stderr", stream)
    fn.train.fit(step, start(), data(), epochs=2, **given)
    return "" if stream is None else stream.getvalue()


def test_a_terminal_is_shown_a_bar(monkeypatch):
    text = shown(monkeypatch, Terminal(), evaluate=evaluate)
    last = text.split("\r")[-1]
    assert "10/10" in last and "100%" in last and " step/s" in last
    assert all(f"{name} " in last for name in ("train/loss", "mean", "loss", "seen"))


def test_a_log_file_is_not(monkeypatch):
    assert shown(monkeypatch, io.StringIO()) == ""
    assert shown(monkeypatch, Terminal(), progress=False) == ""
    assert shown(monkeypatch, None) == ""
    assert "10/10" in shown(monkeypatch, io.StringIO(), progress=True)


def test_a_bar_begins_where_the_run_does(monkeypatch, tmp_path):
    fn.train.fit(step, start(), data(), epochs=1, checkpoints=fn.Checkpoints(tmp_path))
    text = shown(monkeypatch, Terminal(), checkpoints=fn.Checkpoints(tmp_path))
    assert " 5/10 " in text and " 0/10 " not in text


def test_a_bar_is_closed_when_a_run_fails(monkeypatch):
    def fail(state):
        raise LookupError

    stream = Terminal()
    with pytest.raises(LookupError):
        shown(monkeypatch, stream, evaluate=fail)
    assert stream.getvalue().endswith("\n") and " 5/10 " in stream.getvalue()


def test_a_notebook_is_shown_one(monkeypatch):
    """Without widgets, that of terminals; and tqdm's warning of that, which every cell would repeat, is not."""
    shell = types.SimpleNamespace(kernel=object(), config={"IPKernelApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    for name in ("tqdm.auto", "tqdm.autonotebook", "tqdm.notebook"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert "10/10" in shown(monkeypatch, io.StringIO())
    monkeypatch.delattr(shell, "kernel")  # IPython in a terminal
    assert shown(monkeypatch, io.StringIO()) == ""


def test_where_there_is_no_tqdm(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    assert shown(monkeypatch, Terminal()) == ""
    with pytest.raises(ImportError, match=r"fit\(progress=True\) takes tqdm: pip install 'funcnets\[train\]'"):
        shown(monkeypatch, Terminal(), progress=True)
