"""What a directory holds, looked at before a run goes on from it: what differs is then said in terms of `fit`."""

from __future__ import annotations

from funcnets.checkpoint import Checkpoints
from funcnets.checkpoint.keeping import Criterion
from funcnets.train.fitting.history import History


def has_best(checkpoints: Checkpoints, criterion: Criterion | None) -> bool:
    """Whether the run that was saved has a best state; raises where it is no run, or one that goes by a best."""
    looking = Checkpoints(checkpoints.directory, verify=False)  # at names only, so no file is read twice
    _, report = looking.restore({}, strict=False)
    names = {path.partition("/")[0] for path in report.unused}
    if not {"state", "history", "data"} <= names:
        raise ValueError(
            f"fit goes on from what it saved itself, and {checkpoints.directory} holds {sorted(names)}: restore that, "
            "state = checkpoints.resume(state), and give fit the state, and checkpoints in another directory"
        )
    if criterion is None and "best" in names:
        judged = looking.restore(History(), under="history").criterion
        raise ValueError(
            f"the run in {checkpoints.directory} goes by best={judged}, got best=None: go on with that, or give "
            "another run a directory of its own"
        )
    return "best" in names
