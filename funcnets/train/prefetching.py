"""Batches on the device before they are asked for: a thread reads ahead while the step computes.

What comes out of `prefetch` is what comes out of its source, in the same order, errors and ends included; only sooner,
and on the device. It is worth its while where a batch is waited for, or takes the host some time that the step leaves
it: files, decoding, augmentation. Little is gained where the step itself keeps all of the host's cores busy, or where
batches are quicker than steps and the loop reads no metrics: JAX starts a step and returns, and so runs ahead already.

The state of a prefetched iterator is the source's after the batch that was *handed out* last, whatever has been read
ahead: the source is asked for its state after each batch, and both wait together.

The thread knows the source and the place, and not the iterator, which can therefore be collected; with it, or when it
is closed, or at the interpreter's exit, the thread is told to stop. It is a daemon: a source that never returns holds
nothing up.
"""

from __future__ import annotations

import atexit
import copy
import functools
import queue
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Self

import jax

from funcnets.checkpoint.describing import is_iterator
from funcnets.shapes import Tree, is_array, show
from funcnets.train.arguments import check_count

_GRACE = 1.0  # seconds that a thread which is told to stop has to come back from its source

_Read = tuple[Tree, Any, BaseException | None]
"""A batch, the source's state after it, and the error that came in its stead."""


class Prefetch(Iterator[Tree]):
    """An iterator whose batches a thread has put on the device ahead. See `prefetch`."""

    def __init__(
        self, source: Iterator[Tree], size: int, sharding: Any, read_state: Callable[[], Any] | None = None
    ) -> None:
        self._start = functools.partial(_Reader, source, _placing(sharding), read_state, size)
        self._state: Any = None if read_state is None else read_state()
        self._reader: _Reader | None = None
        self._closed = False

    def __next__(self) -> Tree:
        self._check_open()
        if self._reader is None:
            self._reader = self._start()
            weakref.finalize(self, self._reader.stop).atexit = False  # the reader sees to that
        batch, state, error = self._reader.take()
        if error is not None:
            self._halt(None)  # the next call asks the source again, as it would without a thread
            try:
                raise error
            finally:
                del error  # its traceback holds this frame
        self._state = state
        return batch

    def close(self) -> None:
        """Ends the thread; the source may then be used by others. No batch is given any more.

        A source that does not return within a second is left to itself: its thread ends when it does.
        """
        self._closed = True
        self._halt(_GRACE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _halt(self, seconds: float | None) -> None:
        """Ends the thread, and forgets what it has read."""
        if self._reader is not None:
            self._reader.stop(seconds)
        self._reader = None

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError("this prefetch was closed: make another, train.prefetch(iterator)")


class ResumablePrefetch(Prefetch):
    """A `Prefetch` of a source with a state, which it has too."""

    def __init__(self, source: Any, size: int, sharding: Any) -> None:
        super().__init__(source, size, sharding, lambda: copy.deepcopy(source.get_state()))
        self._set = source.set_state

    def get_state(self) -> Any:
        """The source's state after the batch that was handed out last."""
        return copy.deepcopy(self._state)

    def set_state(self, state: Any) -> None:
        """Goes on from a state of the source's. What was read ahead is dropped."""
        self._check_open()
        self._halt(None)
        self._set(copy.deepcopy(state))
        self._state = copy.deepcopy(state)


class SizedPrefetch(ResumablePrefetch):
    """One of a source that says how many steps are in an epoch."""

    def __init__(self, source: Any, size: int, sharding: Any) -> None:
        super().__init__(source, size, sharding)
        self._length = len(source)

    def __len__(self) -> int:
        """Steps in an epoch."""
        return self._length


class _Reader:
    """A thread that reads ahead, as far as there is room, up to the source's end or first error."""

    def __init__(
        self,
        source: Iterator[Tree],
        place: Callable[[Tree], Tree],
        read_state: Callable[[], Any] | None,
        size: int,
    ) -> None:
        self._source, self._place, self._read_state = source, place, read_state
        self._ready: queue.SimpleQueue[_Read] = queue.SimpleQueue()
        self._room = threading.Semaphore(size)
        self._stopped = False
        self._thread = threading.Thread(target=self._read, name="funcnets prefetch", daemon=True)
        self._thread.start()
        atexit.register(self.stop)  # comes before JAX's own, which takes the devices away

    def take(self) -> _Read:
        """What was read next, once it is there."""
        read = self._ready.get()
        self._room.release()
        return read

    def stop(self, seconds: float | None = _GRACE) -> None:
        """Tells the thread to end, and waits until it has, for so long at most."""
        self._stopped = True
        self._room.release()
        if self._thread is not threading.current_thread():  # where garbage is collected in any thread
            self._thread.join(seconds)
        atexit.unregister(self.stop)

    def _read(self) -> None:
        try:
            while self._room.acquire() and not self._stopped:
                batch = next(self._source)
                state = None if self._read_state is None else self._read_state()
                if not self._stopped:
                    self._ready.put((self._place(batch), state, None))
        except BaseException as error:  # raised where its batch would be handed out
            self._ready.put((None, None, error))


def _placing(sharding: Any) -> Callable[[Tree], Tree]:
    """Puts a batch on the device as `jax.device_put` would here: settings in a `with` are those of one thread."""
    config: Any = jax.config
    device, x64 = config.jax_default_device, config.jax_enable_x64

    def place(batch: Tree) -> Tree:
        with jax.default_device(device), jax.enable_x64(x64):
            return jax.device_put(batch, sharding)

    return place


def prefetch(iterator: Iterable[Tree], size: int = 2, sharding: Any = None) -> Prefetch:
    """The batches of an iterator, put on the device by a thread that reads `size` of them ahead.

    Its thread starts with the first `next`, and ends when the iterator is used up, closed (a `with` closes it), or no
    longer referred to. The source runs in that thread: it is not to be used elsewhere meanwhile, and gives a new array
    each time, for one that it fills again may be what the device reads from.

    Where the source has `get_state` and `set_state`, as `data.stream()` and Grain's iterators do, the result has them
    too, and is a leaf of a checkpoint: they are of the batch handed out last, and not of what was read ahead. If such a
    source has a length, the steps in an epoch, so has the result. With a Grain pipeline
    `grain.experimental.device_put(dataset, device)` does as much, and reads with several threads or processes; this one
    takes any iterator.

    A step with `steps_per_call=2` that is called by hand takes batches of two steps, as in the last example. `fit`
    takes those of single steps, whatever its step takes, and stacks them itself.

    Args:
      iterator: Batches, pytrees of NumPy arrays: `data.stream(i)`, a generator, an iterator of Grain.
      size: How many to read ahead.
      sharding: What `jax.device_put` takes: a Sharding, a device, or a tree of them; None is the default device.

    Raises:
      TypeError: What is given is not iterated over.
      ValueError: size is not at least 1.

    Example:
      >>> data = fn.train.batches({"x": np.arange(8.0)}, 2, jax.random.key(0))
      >>> with fn.train.prefetch(data.stream(5)) as ahead:
      ...     batch = next(ahead)
      >>> bool((batch["x"] == data[5]["x"]).all()), ahead.get_state()
      (True, {'step': 6})
      >>> chunks = fn.train.prefetch(data[i : i + 2] for i in range(0, 8, 2))  # for a loop by hand
      >>> next(chunks)["x"].shape
      (2, 2)
    """
    check_count("prefetch", "size", size)
    if not hasattr(iterator, "__iter__") or isinstance(iterator, dict | str) or is_array(iterator):
        raise TypeError(
            f"prefetch takes an iterator of batches, got {show(iterator)}: give it data.stream(), or "
            "(data[i] for i in range(n))"
        )
    source = iter(iterator)
    if not is_iterator(source):  # one with a state
        return Prefetch(source, size, sharding)
    return (SizedPrefetch if hasattr(source, "__len__") else ResumablePrefetch)(source, size, sharding)
