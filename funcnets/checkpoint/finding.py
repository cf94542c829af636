"""Finding the step to read: the one asked for or the newest good one, past those that are damaged.

Another program may write there meanwhile, and delete what it no longer keeps: a step that is gone is none that is
damaged, and the steps are listed again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import TypeVar

from funcnets.checkpoint.integrity import MANIFEST, Damaged, check
from funcnets.checkpoint.reading import Stored, read_description
from funcnets.checkpoint.steps import Steps
from funcnets.notices import warn

T = TypeVar("T")
_TRIES = 10


class _Gone(FileNotFoundError):
    """A step that another program deleted while it was being read."""


class Finding:
    """Finds good steps of a directory.

    Args:
      steps: The steps.
      verify: Whether files are compared with their checksums.

    Attributes:
      damaged: What is wrong with steps, as far as that is known.
    """

    def __init__(self, steps: Steps, verify: bool) -> None:
        self.steps, self.verify = steps, verify
        self.damaged: dict[int, str] = {}  # what was found out so far

    def there(self) -> tuple[int, ...]:
        """The steps that are there, at least one."""
        there = self.steps.numbers()
        if not there:
            raise FileNotFoundError(f"{self.steps.directory} has no steps: check the path, or save one first")
        return there

    def step(self, step: int | None, use: Callable[[Stored], T]) -> T:
        """What `use`, which raises Damaged of a damaged step, makes of this step, or else of the newest good one."""
        if step is None:
            return self.first(lambda: self.there()[::-1], use)
        there = self.there()
        if step not in there:
            raise FileNotFoundError(f"{self.steps.directory} has no step {step}, only {list(there)}: check the path")
        try:
            return self._use(step, use)
        except Damaged as damaged:
            raise Damaged(
                f"step {step} in {self.steps.directory} is damaged: {damaged}. Without step= it is the newest good one"
            ) from damaged

    def first(self, listed: Callable[[], Sequence[int]], use: Callable[[Stored], T]) -> T:
        """What `use` makes of the first good one of the steps listed; they are listed again if one is deleted."""
        for _ in range(_TRIES):
            with contextlib.suppress(_Gone):
                return self._first(listed(), use)
        raise _Gone(
            f"{self.steps.directory} loses its steps, {_TRIES} times by now, while they are being read: have the "
            "program that writes them keep more, Checkpoints(..., keep=3)"
        )

    def _first(self, steps: Sequence[int], use: Callable[[Stored], T]) -> T:
        lines: list[str] = []
        for step in steps:
            try:
                return self._use(step, use)
            except Damaged as damaged:
                lines.append(f"step {step}: {damaged}")
                if step != steps[-1]:
                    warn(f"step {step} in {self.steps.directory} is damaged and passed over: {damaged}")
        raise Damaged(
            f"{self.steps.directory} has no good step:\n  "
            + "\n  ".join(lines)
            + "\nTo start afresh all the same, give another directory"
        )

    def _use(self, step: int, use: Callable[[Stored], T]) -> T:
        try:
            result = use(read_description(self.steps, step))
        except Exception as error:
            if step not in (there := self.steps.numbers()):  # so that is what is wrong
                raise _Gone(
                    f"{self.steps.directory} lost step {step} while it was being read, and has {list(there)}: have the "
                    "program that writes there keep more, Checkpoints(..., keep=3), or read without step="
                ) from error
            if isinstance(error, Damaged):
                self.damaged[step] = str(error)
            raise
        self.damaged.pop(step, None)
        return result

    def check(self, stored: Stored) -> None:
        """Raises Damaged if the step is not as it was written."""
        if not self.verify:
            return
        if stored.files is None:
            warn(
                f"step {stored.step} in {self.steps.directory} has no {MANIFEST}, so it cannot be told whether it "
                "is as it was written: it is used unverified"
            )
            return
        check(self.steps.folder(stored.step), stored.files)

    def damage(self, step: int) -> str | None:
        """What is wrong with a step, as far as that is known or its checksums tell."""
        if step not in self.damaged:
            try:
                if (files := read_description(self.steps, step).files) is not None:
                    check(self.steps.folder(step), files)
            except Damaged as damaged:
                self.damaged[step] = str(damaged)
            except ValueError:  # of another program
                return None
        return self.damaged.get(step)

    def forget(self, step: int) -> None:
        """Another step has that number from now on."""
        self.damaged.pop(step, None)
