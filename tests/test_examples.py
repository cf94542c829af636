"""The examples run as a user would run them, short."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

import funcnets as fn

ROOT = pathlib.Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"


def started(name, *arguments):
    """An example in a process of its own, with this checkout's funcnets and the suite's compilation cache."""
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    }
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def ran(name, *arguments):
    return finished(started(name, *arguments))


def digits(directory, *more):
    return started("digits.py", "--epochs", 4, "--directory", directory, *more)


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


def test_char_lm_stopped_and_run_again_prints_what_a_run_left_alone_prints(tmp_path):
    def run(directory, steps, *more):
        small = ("--width", 16, "--depth", 1, "--directory", tmp_path / directory)
        return ran("char_lm.py", "--steps", steps, *small, *more)

    straight = run("straight", 6)
    assert "held-out text takes" in straight and "after 6 steps" in straight
    assert "after 3 steps" in run("stopped", 3)
    parameters, resuming, rest = run("stopped", 6).split("\n", 2)
    assert resuming == "resuming after step 3"
    assert f"{parameters}\n{rest}" == straight  # the loss, and the text too
    assert bits(tmp_path / "straight") == bits(tmp_path / "stopped")

    again = run("stopped", 1, "--fresh", "--prompt", "However")
    assert "resuming" not in again and "\nHowever" in again


@pytest.mark.parametrize(
    ("name", "arguments", "printed", "picture"),
    [
        ("gan.py", ["--steps", 3], "drawn ", "digits.png"),
        ("tied_autoencoder.py", ["--steps", 3], "tied                   19,016", "digits.png"),
        ("ensemble.py", ["--steps", 3], "the ensemble ", "digits.png"),
        ("series.py", ["--steps", 3], "after the whole recording ", "listening.png"),
        ("fine_tune.py", ["--steps", 3], "moved      head/kernel, head/bias\n", None),
        ("custom_training_loop.py", ["--epochs", 1], "epoch  1  loss ", None),
    ],
)
def test_an_example_runs_from_top_to_bottom(tmp_path, name, arguments, printed, picture):
    where = [] if picture is None else ["--directory", tmp_path]
    output = ran(name, *arguments, *where)
    assert printed in output
    if picture is not None:
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")


def test_every_example_is_told_of_and_tested():
    names = {path.name for path in EXAMPLES.glob("*.py")}
    for text in ((EXAMPLES / "README.md").read_text(), pathlib.Path(__file__).read_text()):
        assert not {name for name in names if name not in text}
