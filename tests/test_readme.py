"""Every code block of the README runs, one after the other."""

import pathlib
import re

import jax

README = pathlib.Path(__file__).parent.parent / "README.md"


def test_the_code_blocks_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) >= 8
    space = {}
    # A reader's settings are JAX's own, and a README may make a lambda.
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        for block in blocks:
            exec(compile(block, "README.md", "exec"), space)


def test_there_are_two_commands():
    commands = re.findall(r"^\$ (.*)$", README.read_text(), re.MULTILINE)
    assert len(commands) == 2
