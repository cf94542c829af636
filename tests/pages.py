"""Pages of the documentation as programs: their code blocks, run one after the other."""

import pathlib
import re

import jax

import funcnets as fn

ROOT = pathlib.Path(fn.__file__).parent.parent


def blocks(page, kind="python"):
    """The code blocks that are marked as `kind`, in their order."""
    return re.findall(
        rf"^```{re.escape(kind)}\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )


def run(page):
    space = {}
    # A reader's settings are JAX's own, and a page may make a lambda.
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        for block in blocks(page):
            exec(compile(block, page, "exec"), space)
