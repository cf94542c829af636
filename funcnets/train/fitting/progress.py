"""The bar that shows how far a run is: in a terminal, in a notebook, or not at all."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from typing import Any, Self

from funcnets.notices import first_process
from funcnets.train.fitting.interruption import in_ipython


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
        self._bar: Any = None
        self._shown: dict[str, float] = {}
        if not (_is_seen() if wanted is None else wanted):
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what it falls back to, where a notebook has no widgets
            try:
                from tqdm.auto import tqdm
            except ImportError as error:
                if wanted:
                    raise ImportError("fit(progress=True) takes tqdm: pip install 'funcnets[train]'") from error
                return
            self._bar = tqdm(total=total, initial=done, unit=" step", dynamic_ncols=True)

    def update(self, steps: int, newest: Mapping[str, float]) -> None:
        """So many more steps are done; and numbers to show beside the bar, in the place of those of the same names."""
        if self._bar is not None and (steps or newest):
            self._shown.update(newest)
            text = ", ".join(f"{name} {value:.4g}" for name, value in self._shown.items())
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(steps)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()


def _is_seen() -> bool:
    if not first_process():
        return False
    return hasattr(in_ipython(), "kernel") or (sys.stderr is not None and sys.stderr.isatty())
