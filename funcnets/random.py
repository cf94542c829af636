"""Randomness by name: the key of an array is a function of its path, and its numbers of its key alone.

    key of "dense_0/kernel"  =  path_key(key, "dense_0/kernel")
    key of copy i of n       =  copy_key(key, i): one copy more changes no other
    keys of a run            =  the same functions of run_key(key): init and apply may share a key

Hence initial values do not depend on the order of creation: a layer put in between changes no other's numbers.
`draw` makes many arrays at once, and what it makes is, bit for bit, what each initialiser gives alone with its key:
eager, under jit, under vmap, sharded, stacked or single.

Two things make that quick. First, word j of a JAX draw is a hash (threefry) of the key and j, so an array can be drawn
in pieces. JAX lets one define a kind of key, and ours, a *stream*, is a threefry key with the word to begin at:
`jax.random.normal` of it gives that window of the very draw. On a CPU, and while JAX does not trace, all arrays are put
together from windows of one size, made by one compiled kernel; drawn as they are, each shape would be compiled for.
Second, a stream's hash is written so that XLA fuses it with the formula that follows. On a CPU that is three times
quicker than JAX's own, compiles in a fraction of the time, and takes no memory of its own.

Keys of other kinds (rbg) have no such words, and vmap changes their numbers. Arrays are drawn from them one by one.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import math
import operator
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from funcnets.shapes import is_array, show
from funcnets.values import Value, code

# Keys

_COPY, _RUN = 0x636F7079, 0x72756E00  # tags: what is folded in before a copy's index, and for run-time randomness


def as_key(key: Any) -> jax.Array:
    """The key as a typed one; `jax.random.PRNGKey`'s arrays of words are taken too, and mean the same.

    Raises:
      TypeError: for anything but one key.
    """
    kind = getattr(key, "dtype", None)
    if kind is not None and jnp.issubdtype(kind, jax.dtypes.prng_key):
        if key.shape == ():
            return key
        count = "×".join(map(str, key.shape))
        raise TypeError(f"one key is taken, got an array of {count} keys: pick one, or jax.vmap over them")
    if kind == np.uint32 and key.ndim == 1:
        return jax.random.wrap_key_data(key)
    seed = isinstance(key, int) and not isinstance(key, bool)
    remedy = "It comes first in init(key, *sample), and by name in apply(params, x, key=key)"
    raise TypeError(
        f"a key is taken, as jax.random.key(0) makes it, got {show(key)}. "
        f"{f'Write jax.random.key({key})' if seed else remedy}"
    )


def path_key(key: Any, path: str) -> jax.Array:
    """The key of what stands at a path: fold_in(fold_in(key, high), low) with the 64-bit hash of the path.

    The hash is BLAKE2b of the UTF-8 path with a digest of 8 bytes, read with the most significant byte first.

    Args:
      key: A key, typed or as `jax.random.PRNGKey` makes it.
      path: Names joined by "/".
    """
    high, low = _hash(path)
    return jax.random.fold_in(jax.random.fold_in(as_key(key), high), low)


def path_keys(key: Any, paths: Sequence[str]) -> jax.Array:
    """The keys of many paths as one array: `path_keys(key, paths)[i] == path_key(key, paths[i])`, far quicker."""
    return _fold(as_key(key), *_hashes(paths))


def copy_key(key: Any, i: Any) -> jax.Array:
    """The key of copy i of something: fold_in(fold_in(key, tag), i). The index may be traced."""
    return jax.random.fold_in(jax.random.fold_in(as_key(key), _COPY), i)


def copy_keys(key: Any, n: int) -> jax.Array:
    """The keys of n copies as one array: `copy_keys(key, n)[i] == copy_key(key, i)`."""
    return _fold(as_key(key), np.uint32(_COPY), jnp.arange(n, dtype=np.uint32))


def run_key(key: Any) -> jax.Array:
    """The key from which a pass derives its randomness; unrelated to the keys of initial values."""
    return jax.random.fold_in(as_key(key), _RUN)


def _hash(path: str) -> tuple[np.uint32, np.uint32]:
    digest = hashlib.blake2b(path.encode(), digest_size=8).digest()
    return np.uint32(int.from_bytes(digest[:4])), np.uint32(int.from_bytes(digest[4:]))


def _hashes(paths: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    words = np.array([_hash(path) for path in paths], np.uint32).reshape(-1, 2)
    return words[:, 0], words[:, 1]


_fold = jnp.vectorize(lambda key, high, low: jax.random.fold_in(jax.random.fold_in(key, high), low))


# Streams


def _threefry(k0: Any, k1: Any, x0: Any, x1: Any) -> tuple[Any, Any]:
    """Threefry-2x32, 20 rounds, on arrays of uint32, NumPy's or JAX's.

    Source: Salmon et al., Parallel random numbers: as easy as 1, 2, 3 (2011).
    """
    ks = (k0, k1, k0 ^ k1 ^ 0x1BD11BDA)
    x0, x1 = x0 + k0, x1 + k1
    for i in range(5):
        for r in ((13, 15, 26, 6), (17, 29, 16, 24))[i % 2]:
            x0 = x0 + x1
            x1 = x0 ^ (x1 << r | x1 >> (32 - r))
        x0, x1 = x0 + ks[(i + 1) % 3], x1 + ks[(i + 2) % 3] + (i + 1)
    return x0, x1


def _fold_numpy(keys: np.ndarray, high: Any, low: Any) -> np.ndarray:
    """`_fold` without a compilation, on threefry keys as uint64."""
    for word in (high, low):
        a, b = _threefry((keys >> 32).astype(np.uint32), keys.astype(np.uint32), np.uint32(0), word)
        keys = a.astype(np.uint64) << 32 | b
    return keys


def _stream_bits(stream: jax.Array, width: int, shape: tuple[int, ...]) -> jax.Array:
    k0, k1, high, low = stream
    stride = 1
    for axis in reversed(range(len(shape))):  # an index from iotas, which XLA can split over devices
        low = low + lax.broadcasted_iota(np.uint32, shape, axis) * np.uint32(stride)
        stride *= shape[axis]
    a, b = _threefry(k0, k1, high, low)
    return a.astype(np.uint64) << 32 | b.astype(np.uint64) if width == 64 else (a ^ b).astype(f"uint{width}")


def _unused(*_: Any) -> Any:
    raise NotImplementedError("a stream has no keys in it: it is only drawn from")


@functools.cache
def _stream() -> Any:
    from jax.extend.random import define_prng_impl  # jax.extend takes longer to import than all of this package

    return define_prng_impl(
        key_shape=(4,),
        seed=_unused,
        split=_unused,
        fold_in=_unused,
        random_bits=_stream_bits,
        name="stream",
        tag="stream",
    )


def _has_stream(key: jax.Array) -> bool:
    partitionable: bool = jax.config.jax_threefry_partitionable  # pyright: ignore[reportAttributeAccessIssue]
    return partitionable and jax.random.key_impl(key) == "threefry2x32"


# Draws


class Standard(Value):
    """A standard distribution whose every element is a formula of one random word.

    Args:
      formula: (key, shape, dtype, *bounds) → array, such as `jax.random.uniform`.
      bounds: Further arguments.
    """

    formula: Callable[..., jax.Array]
    bounds: tuple[float, ...] = ()

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        return self.formula(key, shape, dtype, *self.bounds)


class Recipe(NamedTuple):
    """How to draw an array element by element: factor · standard draw, in the factor's dtype.

    Without a standard draw it is the factor everywhere, and the key is not looked at.
    """

    standard: Standard | None
    factor: Any

    def __call__(self, key: Any, shape: tuple[int, ...]) -> jax.Array:
        if self.standard is None or 0 in shape:
            return jnp.full(shape, self.factor)
        return _whole(as_key(key), self.factor, self.standard, shape)


@runtime_checkable
class Elementwise(Protocol):
    """An initialiser that may have a recipe; None where it has none."""

    def recipe(self, shape: tuple[int, ...], dtype: Any) -> Recipe | None: ...


@functools.partial(jax.jit, static_argnums=(2, 3))
def _whole(key: jax.Array, factor: Any, standard: Standard, shape: tuple[int, ...]) -> jax.Array:
    if _has_stream(key) and factor.dtype.kind != "c" and math.prod(shape) < 2**32:
        words = jnp.concatenate([jax.random.key_data(key), np.zeros(2, np.uint32)])
        key = jax.random.wrap_key_data(words, impl=_stream())
    return _scaled(standard(key, shape, factor.dtype), factor)


_ROWS, _WIDTH = 64, 4096
_ALIGNMENT = 64  # bytes


@functools.partial(jax.jit, static_argnums=2)
def _windows(streams: jax.Array, factors: jax.Array, standard: Standard) -> jax.Array:
    def window(stream: jax.Array, factor: jax.Array) -> jax.Array:
        return _scaled(standard(jax.random.wrap_key_data(stream, impl=_stream()), (_WIDTH,), factor.dtype), factor)

    return jax.vmap(window)(streams, factors)


def _scaled(draw: jax.Array, factor: Any) -> jax.Array:
    # Without the barrier XLA would merge the factor with one in the formula when it knows both, and round otherwise.
    return lax.optimization_barrier(draw) * factor


# Many at once


class Request(NamedTuple):
    """An array, or a tree of them, to be drawn.

    Args:
      steps: The way to its key: (path, copies) pairs. ("dense/kernel", None) folds in a path; ("blocks", 12) folds in a
        path and goes on for each of 12 copies, whose results are stacked along a new axis.
      init: What draws an array of `shape` and `dtype`: any function (key, shape, dtype) → array.
      make: Instead of these three, what makes a tree: any function key → tree.
    """

    steps: tuple[tuple[str, int | None], ...]
    init: Callable[..., Any] | None = None
    shape: tuple[int, ...] = ()
    dtype: Any = np.dtype("float32")
    make: Callable[[jax.Array], Any] | None = None

    @property
    def way(self) -> tuple[int | None, ...]:
        return tuple(n for _, n in self.steps)

    @property
    def copies(self) -> tuple[int, ...]:
        return tuple(n for n in self.way if n is not None)


def draw(key: Any, requests: Sequence[Request]) -> list[Any]:
    """The arrays asked for, each as its initialiser gives it alone with its own key.

    Args:
      key: A key, typed or as `jax.random.PRNGKey` makes it.
      requests: What to draw. The result of one with copies n, m, … has leading axes (n, m, …).

    Returns:
      The arrays, or trees, in the order of the requests.

    Raises:
      ValueError: if a function given as initialiser returns another shape or dtype than it was asked for.
    """
    if not requests:
        return []
    key = as_key(key)
    traced, words = _read(key)
    place = None if traced or not key.committed else key.sharding
    put: Callable[[np.ndarray], jax.Array] = functools.partial(_own, place=place)
    drawn: dict[int, Any] = {}
    windowed: dict[int, Recipe] = {}
    compiled: list[int] = []
    others: list[int] = []
    for i, request in enumerate(requests):
        recipe = _recipe(request)
        shape = (*request.copies, *request.shape)
        if recipe is not None and (recipe.standard is None or 0 in shape):
            drawn[i] = (
                jnp.full(shape, recipe.factor, device=place) if words is None else put(np.full(shape, recipe.factor))
            )
        elif recipe is not None and words is not None and recipe.factor.dtype.kind != "c":
            windowed[i] = recipe
        else:
            ours = isinstance(request.init, Value) and (traced or recipe is not None)
            (compiled if ours else others).append(i)
    if words is not None:
        drawn |= _draw_windowed(words, requests, windowed, put)
    if compiled:
        drawn |= zip(compiled, _draw_compiled(key, tuple(requests[i] for i in compiled)), strict=True)
    drawn |= zip(others, _draw_others(key, [requests[i] for i in others], traced), strict=True)
    return [drawn[i] for i in range(len(requests))]


def _read(key: jax.Array) -> tuple[bool, np.ndarray | None]:
    """Whether JAX traces; and the key's words, as an array of one uint64, if it is a threefry key on a CPU."""
    try:
        devices = key.devices()
        data = np.asarray(jax.random.key_data(key)).astype(np.uint64)
    except (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError):
        return True, None
    if len(devices) > 1 or next(iter(devices)).platform != "cpu" or not _has_stream(key):
        return False, None
    return False, data[:1] << 32 | data[1:]


def _recipe(request: Request) -> Recipe | None:
    if not isinstance(request.init, Elementwise):
        return None
    with _noting(request):
        return request.init.recipe(request.shape, request.dtype)


def _grouped(indices: Iterable[int], mark: Callable[[int], Hashable]) -> list[list[int]]:
    groups: dict[Hashable, list[int]] = {}
    for i in indices:
        groups.setdefault(mark(i), []).append(i)
    return list(groups.values())


def _derive(key: Any, requests: Sequence[Request], fold: Callable[..., Any], arange: Callable[..., Any]) -> Any:
    """The keys of requests that go the same way, as an array (requests, *copies)."""
    for step in zip(*(request.steps for request in requests), strict=True):
        words = (word.reshape(-1, *[1] * (key.ndim - 1)) for word in _hashes([path for path, _ in step]))
        key = fold(key, *words)
        n = step[0][1]
        if n is not None:
            index = arange(n, dtype=np.uint32).reshape(*[1] * key.ndim, n)
            key = fold(key[..., None], np.uint32(_COPY), index)
    return key


def _draw_windowed(
    words: np.ndarray, requests: Sequence[Request], recipes: dict[int, Recipe], put: Callable[[np.ndarray], jax.Array]
) -> dict[int, Any]:
    keys: dict[int, np.ndarray] = {}
    for group in _grouped(recipes, lambda i: requests[i].way):
        keys |= zip(group, _derive(words, [requests[i] for i in group], _fold_numpy, np.arange), strict=True)
    drawn: dict[int, Any] = {}
    for group in _grouped(recipes, lambda i: (recipes[i].standard, recipes[i].factor.dtype)):
        counts = [-(-math.prod(requests[i].shape) // _WIDTH) for i in group]  # windows to an array
        each = [(keys[i].ravel(), recipes[i].factor, n) for i, n in zip(group, counts, strict=True)]
        starts = np.concatenate([np.tile(np.arange(n, dtype=np.uint64) * _WIDTH, key.size) for key, _, n in each])
        repeated = np.concatenate([np.repeat(key, n) for key, _, n in each])
        factors = np.concatenate([np.full(key.size * n, factor) for key, factor, n in each])
        streams = np.stack([repeated >> 32, repeated, starts >> 32, starts], axis=1).astype(np.uint32)
        rows = _rows(streams, factors, recipes[group[0]].standard)
        # One scratch for all, since fresh memory takes longer to come by than numbers to fill it with; put copies.
        scratch = _unaligned(max(key.size * n for key, _, n in each) * _WIDTH, each[0][1].dtype)
        for i, n in zip(group, counts, strict=True):
            shape, size = requests[i].shape, keys[i].size
            held = scratch[: size * n * _WIDTH]
            windows = np.concatenate(list(itertools.islice(rows, size * n)), out=held).reshape(size, n * _WIDTH)
            drawn[i] = put(windows[:, : math.prod(shape)].reshape((*keys[i].shape, *shape)))
    return drawn


def _unaligned(size: int, dtype: Any) -> np.ndarray:
    """Memory that JAX copies from; what is aligned it may share, also when told not to."""
    held = np.empty(size + 1, dtype)
    return held[1:] if held.ctypes.data % _ALIGNMENT == 0 else held[:size]


def _own(array: np.ndarray, place: Any) -> jax.Array:
    """A NumPy array as one of JAX's with a buffer of its own: a shared one could not be donated, nor filled again."""
    if array.ctypes.data % _ALIGNMENT == 0 or not array.flags.c_contiguous:
        held = _unaligned(array.size, array.dtype).reshape(array.shape)
        held[...] = array
        array = held
    return jax.block_until_ready(jax.device_put(array, place))


def _rows(streams: np.ndarray, factors: np.ndarray, standard: Standard | None) -> Iterator[np.ndarray]:
    """A window from the beginning of each stream, times its factor."""
    assert standard is not None
    rows = _ROWS if len(streams) < 16 * _ROWS else 4 * _ROWS  # fewer calls for many windows, less padding for few
    padding = -len(streams) % rows
    streams, factors = np.pad(streams, ((0, padding), (0, 0))), np.pad(factors, (0, padding))
    for at in range(0, len(streams), rows):
        yield from np.asarray(_windows(streams[at : at + rows], factors[at : at + rows], standard))


def _draw_others(key: jax.Array, requests: Sequence[Request], traced: bool) -> list[Any]:
    drawn: dict[int, Any] = {}
    for group in _grouped(range(len(requests)), lambda i: requests[i].way):
        equals = _grouped(group, lambda i: i if requests[i].make else requests[i][1:])
        ordered = [requests[i] for equal in equals for i in equal]
        # From here on as bare words: JAX would have each key used once, and as a whole.
        words = jax.random.key_data(_derive(key, ordered, _fold, jnp.arange))
        for equal in equals:
            mine, words = words[: len(equal)], words[len(equal) :]
            make = _maker(requests[equal[0]], jax.random.key_impl(key))
            for _ in requests[equal[0]].copies:
                # Under vmap, rbg keys would give other numbers.
                make = jax.vmap(make) if _has_stream(key) else functools.partial(lax.map, make)
            if traced and len(equal) > 1:
                # A loop, since XLA would fuse the whole draw into each slice, and compile it as often.
                stacked = lax.map(make, mine)
                drawn |= {i: jax.tree.map(operator.itemgetter(j), stacked) for j, i in enumerate(equal)}
            elif traced or isinstance(requests[equal[0]].init, Value):
                drawn |= {i: make(mine[j]) for j, i in enumerate(equal)}
            else:  # a user's function may return an array that it keeps, and another would then donate it
                drawn |= {i: jax.tree.map(jnp.copy, make(mine[j])) for j, i in enumerate(equal)}
    return [drawn[i] for i in range(len(requests))]


# What is known to be traceable is compiled as one, under vmap outside of jit too, and traced once for equal nets.
_draw_compiled = jax.jit(functools.partial(_draw_others, traced=True), static_argnums=1)


def _maker(request: Request, impl: Any) -> Callable[[jax.Array], Any]:
    """What draws one copy from its key's words."""

    def make(words: jax.Array) -> Any:
        key = jax.random.wrap_key_data(words, impl=impl)
        with _noting(request):
            return made(request, key)

    return make


def made(request: Request, key: jax.Array) -> Any:
    """One copy of what is asked for, with a key that its steps have led to."""
    if request.init is None:
        assert request.make is not None
        return request.make(key)
    array = request.init(key, request.shape, request.dtype)
    if getattr(array, "shape", None) != request.shape or array.dtype != request.dtype:
        asked = show(jax.ShapeDtypeStruct(request.shape, request.dtype))
        got = show(array) if is_array(array) else type(array).__name__
        raise ValueError(
            f"an initialiser takes (key, shape, dtype) and returns such an array; {code(request.init)} was asked for "
            f"{asked} and returned {got}"
        )
    return jnp.asarray(array)


@contextlib.contextmanager
def _noting(request: Request) -> Generator[None]:
    try:
        yield
    except Exception as error:
        error.add_note(f"while drawing {'/'.join(path for path, _ in request.steps if path)}")
        raise
