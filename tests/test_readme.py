"""Every code block of the README runs, one after the other."""

import re

import pages


def test_the_code_blocks_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(pages.blocks("README.md")) >= 8
    pages.run("README.md")


def test_there_are_two_commands():
    commands = re.findall(r"^\$ (.*)$", (pages.ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(commands) == 2
