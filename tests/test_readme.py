"""The README: its code blocks run one after the other, its picture is drawn by one, its links lead somewhere."""

import re

import pages

README = (pages.ROOT / "README.md").read_text(encoding="utf-8")


def test_the_code_blocks_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(pages.blocks("README.md")) >= 8
    pages.run("README.md")
    assert (tmp_path / "net.svg").read_bytes() == (pages.ROOT / "docs" / "net.svg").read_bytes()


def test_there_are_two_commands():
    section = README.split("## Two commands")[1].split("\n## ")[0]
    assert len(re.findall(r"^\$ (.*)$", section, re.MULTILINE)) == 2


def test_links_lead_somewhere():
    places = re.findall(r'\]\(([^)#]+)\)|src="([^"]+)"', README)
    missing = [place for pair in places for place in pair if place and not (pages.ROOT / place).exists()]
    assert len(places) >= 8
    assert not missing
