"""The examples run as a user would run them, short."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np

import funcnets as fn

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"


def digits(directory, *more):
    command = [sys.executable, str(EXAMPLES / "digits.py"), "--epochs", "4", "--directory", str(directory), *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ)


def finished(process):
    output, _ = process.communicate(timeout=180)
    assert process.returncode == 0, output
    return output


def bits(directory):
    tree = fn.Checkpoints(directory / "checkpoints").restore()

    def raw(leaf):
        key = hasattr(leaf, "dtype") and jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(leaf) if key else leaf).tobytes()

    return jax.tree.map(raw, tree)


def test_digits_killed_and_run_again_ends_with_the_same_bits(tmp_path):
    straight = finished(digits(tmp_path / "straight"))
    assert "conv_0" in straight
    assert "test accuracy 0.9" in straight
    for picture in ("learning_curve.png", "predictions.png"):
        assert (tmp_path / "straight" / picture).read_bytes().startswith(b"\x89PNG")

    process = digits(tmp_path / "killed")
    steps = tmp_path / "killed" / "checkpoints"
    deadline = time.monotonic() + 120
    while not any(path.name.isdigit() for path in steps.glob("*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    resumed = finished(digits(tmp_path / "killed"))
    assert "going on from step" in resumed
    assert bits(tmp_path / "straight") == bits(tmp_path / "killed")

    assert "going on from step 88" in finished(digits(tmp_path / "killed"))
    assert "going on" not in finished(digits(tmp_path / "killed", "--fresh"))
