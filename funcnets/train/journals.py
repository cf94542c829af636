"""Logs of a run, as callbacks of `fit`: each report is written at once, so a process that is killed has told all.

A run that is resumed reports again from where its checkpoint was. What a log has of those steps and later ones is
dropped then, so it reads like that of a run that was left alone.
"""

from __future__ import annotations

import json
import math
import os
import pathlib
import socket
import time
import weakref
from collections.abc import Callable, Mapping
from typing import Any

Callback = Callable[[int, Mapping[str, float], Any], Any]


def json_lines(path: str | os.PathLike[str]) -> Callback:
    """A callback that writes each report as a line of JSON, {"step": 100, "loss": 0.25, "eval/accuracy": 0.9}.

    Numbers that are not finite are null, which `pandas.read_json(path, lines=True)` takes for NaN.

    Args:
      path: The file, made with its directory when first written to.

    Raises:
      ValueError: (when called) the file holds something else.

    Example:
      >>> import tempfile
      >>> path = tempfile.mkdtemp() + "/log.jsonl"
      >>> log = fn.train.json_lines(path)
      >>> log(100, {"loss": 0.25, "eval/accuracy": 0.9}, None)
      >>> open(path).read()
      '{"step": 100, "loss": 0.25, "eval/accuracy": 0.9}\\n'
    """
    file = pathlib.Path(path).absolute()
    last: int | None = None

    def log(step: int, metrics: Mapping[str, float], state: Any) -> None:
        nonlocal last
        if last is None or step <= last:
            file.parent.mkdir(parents=True, exist_ok=True)
            _drop_lines(file, step)
        last = step
        finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        with file.open("a", encoding="utf-8") as opened:
            opened.write(json.dumps({"step": step, **finite}, allow_nan=False) + "\n")

    return log


def _drop_lines(file: pathlib.Path, first: int) -> None:
    """Leaves out the reports of a step and later ones, and a last line that was not written to its end."""
    if not file.exists():
        return
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    kept: list[str] = []
    for i, line in enumerate(lines):
        try:
            if json.loads(line)["step"] < first:
                kept.append(line)
        except (ValueError, TypeError, KeyError) as error:
            if i < len(lines) - 1:
                raise ValueError(
                    f"json_lines takes a file of its own; line {i + 1} of {file} is no report: give another path"
                ) from error
    rest = file.with_name(file.name + ".tmp")
    rest.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
    os.replace(rest, file)


def tensorboard(directory: str | os.PathLike[str]) -> Callback:
    """A callback that writes each report as scalars for TensorBoard, `tensorboard --logdir directory`.

    Args:
      directory: Where the event files are, one for each process that wrote; made when first written to.

    Raises:
      ImportError: tensorboardX is not installed.
    """
    try:
        from tensorboardX import RecordWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.proto.summary_pb2 import Summary
    except ImportError as error:
        raise ImportError("tensorboard takes tensorboardX: pip install 'funcnets[train]'") from error
    folder = pathlib.Path(directory).absolute()
    writer: Any = None
    last: int | None = None

    def write(**fields: Any) -> None:
        writer.write(Event(wall_time=time.time(), **fields).SerializeToString())

    def log(step: int, metrics: Mapping[str, float], state: Any) -> None:
        nonlocal writer, last
        if writer is None:
            folder.mkdir(parents=True, exist_ok=True)
            # by the name TensorBoard knows the files and their order
            name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
            writer = RecordWriter(str(folder / name))
            weakref.finalize(log, writer.close)
            write(file_version="brain.Event:2")
        if last is None or step <= last:  # TensorBoard drops what it has of this step and later ones
            write(step=step, session_log=SessionLog(status=SessionLog.START))
        last = step
        values = [Summary.Value(tag=name, simple_value=value) for name, value in metrics.items()]
        write(step=step, summary=Summary(value=values))
        writer.flush()

    return log
