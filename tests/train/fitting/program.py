"""A run as a script, for the tests that end it: FAULT=step,signal python program.py DIRECTORY sends itself the signal
when that step's batch is asked for.
"""

import os
import pathlib
import signal
import sys

import quick

import funcnets as fn
from funcnets.train.data import Batches


class Faulty(Batches):
    """The data, which sends the signal."""

    def __init__(self, step, number):
        super().__init__(quick.ROWS, 4, quick.KEY, "drop")
        self.step, self.number = step, number

    def __getitem__(self, step):
        if step == self.step:
            os.kill(os.getpid(), self.number)
        return super().__getitem__(step)


def fit(directory, data=None, **given):
    directory = pathlib.Path(directory)
    given = {"epochs": 4, "evaluate": quick.evaluate, "best": "loss", "checkpoints": directory / "steps"} | given
    if given["checkpoints"] is not None:
        given["checkpoints"] = fn.Checkpoints(given["checkpoints"])
    callbacks = [fn.train.json_lines(directory / "log.jsonl"), *given.pop("callbacks", ())]
    begin = given.pop("step", quick.step), given.pop("state", quick.start())
    return fn.train.fit(*begin, data or quick.data(), callbacks=callbacks, **given)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background may be started without
    fit(sys.argv[1], Faulty(*map(int, os.environ["FAULT"].split(","))))
    print("finished")
