"""The compilation cache: a second process compiles nothing; where the directory is, and when it is set."""

import json
import pathlib
import subprocess
import sys
import textwrap

import jax
import pytest

import funcnets as fn

PROGRAM = """
    import collections, json, warnings
    warnings.simplefilter("error")
    import jax, numpy as np, optax
    import funcnets as fn

    count = collections.Counter()
    jax.monitoring.register_event_listener(lambda name, **_: count.update([name.split("/")[-1]]))
    %s
    net, x = fn.Sequential(fn.Dense(8), jax.nn.relu, fn.Dropout(0.1), fn.Dense(1)), np.ones((4, 3), np.float32)
    state = fn.train.create(net, optax.adam(1e-2), jax.random.key(0), x)
    step = fn.train.make_step(net, lambda model, x: (model(x) ** 2).mean(), optax.adam(1e-2))
    state, metrics = step(state, x)
    print(json.dumps([float(metrics["loss"]), count]))
"""


def run(first, cwd):
    program = textwrap.dedent(PROGRAM) % textwrap.dedent(first).replace("\n", "; ")
    root = str(pathlib.Path(fn.__file__).parents[1])
    program = f"import sys; sys.path.insert(0, {root!r})\n{program}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=cwd, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    loss, count = json.loads(done.stdout)
    return loss, count.get("cache_hits", 0), count.get("cache_misses", 0), count["compile_requests_use_cache"]


def test_a_second_process_compiles_nothing(tmp_path):
    loss, _, misses, _ = run('fn.train.cache_compilations("new/cache")', tmp_path)
    assert misses > 3
    assert len(list((tmp_path / "new" / "cache").glob("*-cache"))) == misses
    again, hits, misses, requests = run('fn.train.cache_compilations("new/cache")', tmp_path)
    assert (hits, misses) == (requests, 0)
    assert again == loss

    # after a compilation, and after another directory was in use
    late = (
        'fn.train.cache_compilations("other")\njax.jit(lambda x: x + 1)(1.0)\nfn.train.cache_compilations("new/cache")'
    )
    _, hits, misses, requests = run(f"jax.jit(lambda x: x * 3)(1.0)\n{late}\ncount.clear()", tmp_path)
    assert (hits, misses) == (requests, 0)
    assert len(list((tmp_path / "other").glob("*-cache"))) == 1

    off = 'jax.config.update("jax_enable_compilation_cache", False)'
    _, hits, misses, _ = run(
        f'fn.train.cache_compilations("new/cache")\n{off}\ncount.update(compile_requests_use_cache=1)', tmp_path
    )
    assert (hits, misses) == (0, 0)


@pytest.fixture
def restored():
    names = (
        "jax_compilation_cache_dir",
        "jax_persistent_cache_min_compile_time_secs",
        "jax_persistent_cache_min_entry_size_bytes",
    )
    held = {name: getattr(jax.config, name) for name in names}
    yield
    from jax.experimental.compilation_cache import compilation_cache

    for name, value in held.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.mark.usefixtures("restored")
def test_where_the_directory_is(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    fn.train.cache_compilations("~/cache")
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "home" / "cache")
    assert (tmp_path / "home" / "cache").is_dir()
    fn.train.cache_compilations("here")
    monkeypatch.chdir("/")
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "here")
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError):
        fn.train.cache_compilations(tmp_path / "file")
    with pytest.raises(NotADirectoryError):
        fn.train.cache_compilations(tmp_path / "file" / "cache")
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(PermissionError, match=r"takes a directory that can be written to, got .*here"):
        fn.train.cache_compilations(tmp_path / "here")
    fn.train.cache_compilations("gs://bucket/cache")
    assert jax.config.jax_compilation_cache_dir == "gs://bucket/cache"
