"""Batches by step, from whatever holds them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcnets as fn
from funcnets.train.fitting.feed import Feed


@pytest.mark.parametrize(
    "data",
    [
        fn.train.batches(np.arange(20.0), 4),
        [np.arange(4.0) + 4 * i for i in range(5)],
        fn.train.batches(np.arange(20.0), 4).stream(),
        (np.arange(4.0) + 4 * i for i in range(5)),
        (jnp.arange(4.0) + 4 * i for i in range(5)),
    ],
    ids=["batches", "list", "stream", "generator", "on the device"],
)
def test_batches_of_several_steps_are_stacked(data):
    feed = Feed(data)
    first = feed.take(0, 1)
    three = feed.take(1, 3)
    np.testing.assert_array_equal(first, np.arange(4.0))
    np.testing.assert_array_equal(three, np.arange(4.0, 16).reshape(3, 4))
    assert isinstance(three, jax.Array) == isinstance(first, jax.Array)


def test_no_batches_are_none():
    feed = Feed(None)
    assert feed.take(0, 1) is None and feed.take(0, 3) is None
    assert feed.length is None and feed.can_go_on_from(3) and not feed.has_place


def test_an_iterator_that_keeps_its_place_is_saved():
    stream = fn.train.batches(np.arange(4), 2).stream()
    feed = Feed(stream)
    assert feed.has_place and feed.can_go_on_from(3)
    feed.take(0, 3)
    assert feed.get_state() == {"step": 0} and stream.get_state() == {"step": 3}  # none was used yet
    feed.put_back()
    assert stream.get_state() == {"step": 0}
    feed.take(0, 3)
    feed.used()
    feed.take(3, 1)
    assert feed.get_state() == {"step": 3}
    feed.set_state({"step": 7})
    assert feed.get_state() == stream.get_state() == {"step": 7}
    generator = Feed(i for i in range(3))
    assert not generator.has_place and not generator.can_go_on_from(3)


def test_what_is_iterated_over_gives_an_iterator_each_time():
    class Loader:
        def __iter__(self):
            return iter([1, 2])

    feed = Feed(Loader())
    assert [feed.take(i, 1) for i in range(5)] == [1, 2, 1, 2, 1]
    assert not feed.can_go_on_from(2)
    Loader.__len__ = lambda self: 2
    assert [i for i in range(5) if Feed(Loader()).can_go_on_from(i)] == [0, 2, 4]
    Loader.__len__ = lambda self: len(None)  # as loaders have it whose dataset has no length
    assert Feed(Loader()).length is None and not Feed(Loader()).can_go_on_from(2)
    assert not Feed(iter([1, 2])).can_go_on_from(0)
    places = type("Arrays", (), {"__iter__": lambda self: self, "__next__": lambda self: 1})
    places.set_state = lambda self, state: None
    places.get_state = lambda self: np.zeros(2)  # what a checkpoint does not take, and a run without one does
    feed = Feed(places())
    feed.put_back()
    feed.take(0, 1)
    feed.put_back()
    with pytest.raises(StopIteration):
        Feed(type("Empty", (), {"__iter__": lambda self: iter(())})()).take(0, 1)


def test_what_has_a_length_is_asked_for_an_epoch_again_and_again():
    class Dataset:
        def __getitem__(self, i):
            return np.arange(20.0)[4 * i : 4 * i + 4]

    endless = Feed(Dataset())
    assert endless.length is None and endless.take(6, 1).size == 0  # asked for what it is asked for
    Dataset.__len__ = lambda self: 5
    feed = Feed(Dataset())
    assert feed.length == 5
    np.testing.assert_array_equal(feed.take(13, 1), [12, 13, 14, 15])
    np.testing.assert_array_equal(feed.take(4, 2), [[16, 17, 18, 19], [0, 1, 2, 3]])
    batches = fn.train.batches(np.arange(20.0), 4, jax.random.key(0))
    np.testing.assert_array_equal(Feed(batches).take(13, 1), batches[13])  # whose epochs differ


def test_what_is_no_data_is_refused():
    for given in ({"x": np.zeros(3)}, np.zeros(3), "digits", 5, lambda step: step):
        with pytest.raises(TypeError, match="fit takes batches, data.step., or an iterator of them, got"):
            Feed(given)
    with pytest.raises(ValueError, match="fit takes batches, got a list of none: are there fewer examples than one"):
        Feed([])


def test_short_batches_are_not_stacked():
    short = [np.zeros(4), np.zeros(3)]
    with pytest.raises(ValueError, match=r"have one shape, got \[\(3,\), \(4,\)\]: leave out those that are not full"):
        Feed(short).take(0, 2)
