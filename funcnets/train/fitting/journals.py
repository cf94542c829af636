"""Logs of a run, as callbacks of `fit`: each report is written at once, so a process that is killed has told all.

A run that is resumed reports again from where its checkpoint was. What a log has of those steps and later ones is
dropped then, so it reads like that of a run that was left alone. Where JAX runs in several processes, the first writes.
"""

from __future__ import annotations

import json
import math
import os
import pathlib
import time
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from funcnets.notices import first_process

Callback = Callable[[int, Mapping[str, float], Any], Any]


def json_lines(path: str | os.PathLike[str]) -> Callback:
    """A callback of `fit` that writes each report as a line of JSON, {"step": 100, "loss": 0.25, "accuracy": 0.9}.

    Numbers that are not finite are null, which `pandas.read_json(path, lines=True)` takes for NaN.

    The first report drops the lines of its step and of later ones, and keeps those of earlier ones: they are taken for
    the same run's, before it was broken off. A new run takes a new file.

    Args:
      path: The file, made with its directory when first written to.

    Raises:
      ValueError: (when called) the file holds something else.

    Example:
      >>> import tempfile
      >>> path = tempfile.mkdtemp() + "/log.jsonl"
      >>> log = fn.train.json_lines(path)
      >>> log(100, {"loss": 0.25, "accuracy": 0.9}, None)
      >>> with open(path) as lines:
      ...     print(lines.read(), end="")
      {"step": 100, "loss": 0.25, "accuracy": 0.9}
    """
    file = pathlib.Path(path).absolute()
    last: int | None = None

    def log(step: int, metrics: Mapping[str, float], state: Any) -> None:
        nonlocal last
        if not first_process():
            return
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
    """A callback of `fit` that writes each report as scalars for TensorBoard, `tensorboard --logdir directory`.

    The first report supersedes what there is of its step and later ones, as with `json_lines`.

    Args:
      directory: Where the event files are, one for each process that wrote; made when first written to.

    Raises:
      ImportError: tensorboardX is not installed.

    Example: `fn.train.fit(step, state, data, epochs=40, callbacks=[fn.train.tensorboard("runs/a/board")])`
    """
    try:
        # its SummaryWriter hands events to a thread, and what that holds is lost with the process
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2, summary_pb2
    except ImportError as error:
        raise ImportError("tensorboard takes tensorboardX: pip install 'funcnets[train]'") from error
    events: Any = event_pb2  # protobuf makes its classes when it is loaded
    summaries: Any = summary_pb2
    folder = pathlib.Path(directory).absolute()
    writer: Any = None
    last: int | None = None

    def write(step: int, **fields: Any) -> None:
        writer.write_event(events.Event(wall_time=time.time(), step=step, **fields))

    def log(step: int, metrics: Mapping[str, float], state: Any) -> None:
        nonlocal writer, last
        if not first_process():
            return
        if writer is None:
            folder.mkdir(parents=True, exist_ok=True)
            # files of the same second are told apart, and read in their order
            writer = EventsWriter(str(folder / "events"), f".{time.time_ns()}.{os.getpid()}")
            weakref.finalize(log, writer.close)
        if last is None or step <= last:  # TensorBoard drops what it has of this step and later ones
            write(step, session_log=events.SessionLog(status=events.SessionLog.START))
        last = step
        values = [summaries.Summary.Value(tag=name, simple_value=value) for name, value in metrics.items()]
        write(step, summary=summaries.Summary(value=values))
        writer.flush()

    return log
