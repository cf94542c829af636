"""The examples in docstrings run as they stand, with the names that a reader would have imported."""

import doctest
import importlib
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcnets as fn

PACKAGE = pathlib.Path(fn.__file__).parent
NAMES = {"jax": jax, "jnp": jnp, "np": np, "optax": optax, "fn": fn}
MODULES = sorted(
    ".".join(("funcnets", *path.relative_to(PACKAGE).with_suffix("").parts))
    for path in PACKAGE.rglob("*.py")
    if path.name != "__init__.py"
)


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    module = importlib.import_module(name)
    found = doctest.DocTestFinder(exclude_empty=True).find(module, name, globs=dict(NAMES))
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):  # a reader's settings are JAX's own
        for test in found:
            report: list[str] = []
            runner.run(test, out=report.append)
            assert not runner.failures, "".join(report)
