"""The reference builds without a warning, has an entry for every public name, and no link in it leads nowhere."""

import importlib
import inspect
import os
import re
import subprocess
import sys

import pages
import pytest

import funcnets as fn

pytest.importorskip("pdoc")

ROOMS = ("files", "initializers", "inspect", "params", "rewrite", "train")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    directory = tmp_path_factory.mktemp("reference")
    command = [sys.executable, "-W", "error", str(pages.ROOT / "docs" / "reference.py"), str(directory)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(pages.ROOT), *sys.path[1:]])}
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and not done.stdout + done.stderr, done.stderr
    return {path: path.read_text(encoding="utf-8") for path in directory.rglob("*.html")}


def page(site, room):
    return next(text for path, text in site.items() if path.name == f"{room}.html")


def public(module):
    return getattr(module, "__all__", [name for name in dir(module) if not name.startswith("_")])


def test_every_public_name_of_the_face_has_an_entry(site):
    names = {name for name in public(fn) if not inspect.ismodule(getattr(fn, name))}
    assert {"Dense", "capture", "generate"} <= names <= set(re.findall('id="([^"]+)"', page(site, "funcnets")))


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_of_a_room_has_an_entry(site, room):
    module = importlib.import_module(f"funcnets.{room}")
    names = set(public(module))
    if not hasattr(module, "__all__"):
        names = {name for name in names if getattr(getattr(module, name), "__module__", None) == module.__name__}
    assert names and names <= set(re.findall('id="([^"]+)"', page(site, room)))


def test_what_a_docstring_says_is_on_its_page(site):
    dense = page(site, "funcnets").split('id="Dense"')[1].split("<section")[0]
    text = re.sub("<[^>]+>", "", dense)
    for part in ("features: int | tuple[int, ...]", "Args", "Params", "Inputs", "Raises", "Source", "Example"):
        assert part in text, part
    assert "kernel_init: funcnets.initializers.Initializer = LecunNormal()" in text
    assert 'href="funcnets/initializers.html#Initializer"' in dense and 'href="#Layer"' in dense


def test_no_link_leads_nowhere(site):
    held = {path: set(re.findall('id="([^"]+)"', text)) for path, text in site.items()}
    for path, text in site.items():
        for link in set(re.findall('href="([^"$:]+)"', text)):
            file, _, name = link.partition("#")
            there = (path.parent / file).resolve() if file else path
            assert there in held and (not name or name in held[there]), f"{path.name}: {link}"
