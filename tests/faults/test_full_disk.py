"""A disk that is full: the save, or the next call, says so; earlier steps are intact; with room the run goes on."""

import subprocess

import pytest
from test_endings import run

import funcnets as fn

FILLED = """
checkpoints.save(1, {"x": numbers(1)})
checkpoints.wait()
fill()
failed = 0
for step in range(2, 5):
    try:
        checkpoints.save(step, {"x": numbers(step)})
        checkpoints.wait()
    except Exception as error:
        assert error.__notes__[-1] == f"while writing to {sys.argv[1]}; the steps [1] are there", error.__notes__
        failed += 1
assert failed == 3, failed
assert checkpoints.steps() == (1,)
assert (checkpoints.restore()["x"] == numbers(1)).all()
free()
checkpoints.save(5, {"x": numbers(5)})
assert (checkpoints.restore()["x"] == numbers(5)).all()
"""

BEGIN = """
import os, resource, sys
import numpy as np
import funcnets as fn

checkpoints = fn.Checkpoints(sys.argv[1])

def numbers(step):
    return np.random.default_rng(step).random(100_000)
"""

# on a disk of 4 MB
DISK = """
filler = os.path.join(sys.argv[1], "filler")

def fill():
    with open(filler, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1000))
        except OSError:
            pass

def free():
    os.remove(filler)
"""

# where no file may be large
LIMIT = """
before = resource.getrlimit(resource.RLIMIT_FSIZE)

def fill():
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))

def free():
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
"""


def check(directory, ended):
    assert ended.returncode == 0, ended.stderr
    with fn.Checkpoints(directory) as checkpoints:
        assert checkpoints.steps() == (1, 5)
    assert sorted(path.name for path in directory.iterdir()) == [".lock", "1", "5"]  # no leftovers


def test_where_a_file_is_too_large(tmp_path):
    check(tmp_path, run(FILLED, tmp_path, begin=BEGIN + LIMIT))


def test_where_the_disk_is_full(tmp_path):
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk is for root")
    try:
        check(tmp_path, run(FILLED, tmp_path, begin=BEGIN + DISK))
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
