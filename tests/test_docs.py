"""docs/coming_from.md: our blocks run, one after the other, and those of each other library where it is installed."""

import importlib.util
import os
import re
import subprocess
import sys

import pages
import pytest

PAGE = "docs/coming_from.md"
OTHERS = {"pytorch": "torch", "flax": "flax", "equinox": "equinox", "haiku": "haiku", "keras": "keras"}


def jobs():
    return re.split(r"^## (?=\d)", (pages.ROOT / PAGE).read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]


def test_our_blocks_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pages.run(PAGE)


def test_each_of_twelve_jobs_is_done_by_us_and_by_others():
    kinds = [re.findall(r"^```python ?(.*)$", job, re.MULTILINE) for job in jobs()]
    assert len(kinds) == 12
    for held in kinds:
        assert held.count("") == 1 and held[-1] == ""
        assert {*held[:-1]} <= set(OTHERS) and len(held) in (2, 3)
    assert all(sum(name in held for held in kinds) >= 2 for name in OTHERS)
    assert all("*What differs:*" in job and "*Where theirs is better:*" in job for job in jobs())


@pytest.mark.parametrize("name", OTHERS)
def test_their_blocks_run(name, tmp_path):
    program = "\n".join(pages.blocks(PAGE, f"python {name}"))
    compile(program, PAGE, "exec")
    if importlib.util.find_spec(OTHERS[name]) is None:
        pytest.skip(f"{OTHERS[name]} is not installed")
    (tmp_path / "theirs.py").write_text(program)
    environment = {**os.environ, "KERAS_BACKEND": "jax", "PYTHONWARNINGS": "default"}
    command = [sys.executable, "theirs.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
