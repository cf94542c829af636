"""Compilations kept on disk: a script that is started again does not compile again."""

from __future__ import annotations

import os
import pathlib

import jax


def cache_compilations(directory: str | os.PathLike[str]) -> None:
    """Keeps all that JAX compiles from now on in a directory, and takes it from there where it has been compiled before.

    It sets JAX's persistent compilation cache, for this process and all of its devices, and its thresholds such that
    the smallest program is kept too. A program is found again if it is the same, to the shapes and dtypes, for the same
    kind of device, JAX version and XLA flags; others stand beside it, and what is damaged is compiled anew. Any number
    of processes may share the directory, at the same time too, and all runs of a project should. It holds executable
    code, so it must be one that nobody else can write to.

    Nothing is ever deleted, unless `jax.config.update("jax_compilation_cache_max_size", bytes)` sets a bound: then what
    was not used for longest goes. Delete the directory to clear it. To turn the cache off, in a process or in a block,
    there are `jax.config.update("jax_enable_compilation_cache", False)` and JAX_ENABLE_COMPILATION_CACHE=0.

    Call it at the head of a script: what has been compiled before the call is not in the cache.

    Args:
      directory: Where they are kept, made if need be; "~" is the home directory, and a relative path is pinned. JAX
        takes "gs://..." too.

    Raises:
      OSError: The directory cannot be made or written to.

    Example:
      >>> import tempfile
      >>> fn.train.cache_compilations(tempfile.mkdtemp())
    """
    from jax.experimental.compilation_cache import compilation_cache

    path = os.fspath(directory)
    if "://" not in path:
        path = os.path.abspath(os.path.expanduser(path))
        pathlib.Path(path).mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(f"cache_compilations takes a directory that can be written to, got {path}")
    jax.config.update("jax_compilation_cache_dir", path)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    compilation_cache.reset_cache()  # a cache that is in use already stays in the directory it was opened in
