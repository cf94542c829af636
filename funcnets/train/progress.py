"""The bar that shows how far a run is: in a terminal, in a notebook, or not at all."""

from __future__ import annotations

import importlib.util
import sys
import warnings
from typing import Any, Self

from funcnets.train.history import History
from funcnets.train.interruption import in_ipython


class Bar:
    """A tqdm bar over steps, closed on leaving its `with`.

    Args:
      wanted: True always shows it, False never; None where somebody sees it, and where tqdm is installed.
      total: Steps in all.
      done: Steps that were done before.

    Raises:
      ImportError: It is wanted, and tqdm is not installed.
    """

    def __init__(self, wanted: bool | None, total: int, done: int) -> None:
        notebook = hasattr(in_ipython(), "kernel")
        seen = notebook or (sys.stderr is not None and sys.stderr.isatty())
        self._bar: Any = None
        if wanted is False or (wanted is None and not seen):
            return
        try:
            import tqdm
        except ImportError as error:
            if wanted:
                raise ImportError("progress=True takes tqdm: pip install 'funcnets[train]'") from error
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", tqdm.TqdmWarning)  # of what it falls back to, such as no monitor thread
            make: Any = tqdm.tqdm
            if notebook and importlib.util.find_spec("ipywidgets"):
                from tqdm.notebook import tqdm as make
            self._bar = make(total=total, initial=done, unit="step", dynamic_ncols=True)

    def update(self, steps: int) -> None:
        """So many more steps are done."""
        if self._bar is not None:
            self._bar.update(steps)

    def show(self, history: History) -> None:
        """The newest loss and evaluation beside the bar."""
        if self._bar is None:
            return
        latest = {name: history._last(name) for name in history if name == "loss"}
        latest |= {f"eval {name}": history.evaluations._last(name) for name in history.evaluations}
        self._bar.set_postfix_str(", ".join(f"{name} {value:.4g}" for name, value in latest.items()), refresh=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()
