"""What a run has measured, as arrays, in checkpoints and as a picture."""

import sys

import numpy as np
import pytest
from matplotlib import image
from quick import data, evaluate, same_history, start, step

import funcnets as fn
from funcnets.train.fitting.history import Series


def history_of(**given):
    return fn.train.fit(step, start(), data(), **({"epochs": 3} | given)).history


def test_series_are_mappings_of_arrays():
    history = history_of(evaluate=evaluate)
    assert history["seen"].dtype == np.float64 and history.steps.dtype == np.int64
    assert {name: len(values) for name, values in history.items()} == dict.fromkeys(history, 3)
    assert {name: len(values) for name, values in history.training.items()} == {"loss": 15, "mean": 15}
    assert history == history and history != history_of(evaluate=evaluate) and len({history, history}) == 1
    assert repr(history.training) == "Series(15 × loss, mean)"
    assert repr(Series()) == "Series(0 × nothing)"
    history["seen"][:] = 0  # a copy
    assert history["seen"].any()
    with pytest.raises(KeyError, match=r"'sen' was not measured \(did you mean 'seen'\?\); there are \['train/loss'"):
        history["sen"]


def test_what_was_not_measured_at_a_step_is_nan():
    series = Series()
    series._extend([1, 2], {"a": [1.0, 2.0]})
    series._extend([3], {"b": [3.0]})
    np.testing.assert_array_equal(series["a"], [1, 2, np.nan])
    np.testing.assert_array_equal(series["b"], [np.nan, np.nan, 3])


@pytest.mark.parametrize("given", [{}, {"best": "loss", "evaluate": evaluate}, {"best": ("mean", "max")}])
def test_a_history_goes_through_its_state(given):
    history = history_of(**given)
    other = fn.train.History()
    other.set_state(history.get_state())
    same_history(other, history)
    empty = fn.train.History(("loss", "min"))
    empty.set_state(fn.train.History(("loss", "min")).get_state())
    assert len(empty) == 0 and empty.steps.shape == (0,) and empty.best_step is None
    other = fn.train.History(("other", "min"))
    if given:
        says = "this run goes by best=.*, got best=.'other', 'min'.: go on with that, or give"
        with pytest.raises(ValueError, match=says):
            other.set_state(history.get_state())
    else:  # it judges what comes
        other.set_state(history.get_state())
        assert other.criterion == ("other", "min") and other.best_step is None
        other._report(20, {"other": 1.0}, [])
        assert (other.best_step, other.best_value, other._reports_since_best()) == (20, 1.0, 0)


def test_a_history_is_read_from_a_checkpoint_alone(tmp_path):
    checkpoints = fn.Checkpoints(tmp_path)
    history = history_of(best="loss", checkpoints=checkpoints)
    other = fn.train.History()
    same_history(checkpoints.restore(other, under="history"), history)


# The picture


def panels(figure):
    """By title, the x and y of each line by its label."""
    return {
        axes.get_title(): {
            line.get_label(): (line.get_xdata(), line.get_ydata()) for line in axes.lines if line.get_label()[0] != "_"
        }
        for axes in figure.axes
    }


def test_curves_are_those_of_the_numbers(tmp_path):
    history = history_of(evaluate=evaluate, best="loss")
    figure = history.plot()
    drawn = panels(figure)
    assert list(drawn) == ["loss", "mean", "seen"]
    best = f"best, {history.best_value:.4g} at step {history.best_step}"
    assert list(drawn["loss"]) == ["training", "evaluation", best]
    assert (list(drawn["mean"]), list(drawn["seen"])) == (["training"], ["evaluation"])
    for name, curve, steps, values in (
        ("loss", "training", history.training.steps, history.training["loss"]),
        ("loss", "evaluation", history.steps, history["loss"]),
        ("mean", "training", history.training.steps, history.training["mean"]),
        ("seen", "evaluation", history.steps, history["seen"]),
        ("loss", best, [history.best_step], [history.best_value]),
    ):
        np.testing.assert_array_equal(drawn[name][curve], (steps, values))
    assert "matplotlib.pyplot" not in sys.modules  # which would take a display where there is one
    assert figure._repr_png_().startswith(b"\x89PNG")  # as notebooks ask
    figure.savefig(tmp_path / "curves.png")
    picture = image.imread(tmp_path / "curves.png")
    assert picture.shape[0] > 300 and picture.shape[1] > 1000 and picture.std() > 0.05


def test_many_steps_are_drawn_with_their_running_mean():
    history = fn.train.History()
    values = np.random.default_rng(0).normal(size=600)
    history.training._extend(range(1, 601), {"loss": values.tolist()})
    (drawn,) = panels(history.plot()).values()
    (steps, means), = drawn.values()  # fmt: skip
    assert list(drawn) == ["training, mean of 10 steps"]
    np.testing.assert_array_equal(steps, np.arange(10, 601))
    np.testing.assert_allclose(means, [values[i : i + 10].mean() for i in range(591)], atol=1e-12)


def test_orders_of_magnitude_are_drawn_as_such():
    for low, scale in ((1.0, "linear"), (1e-3, "log"), (-1.0, "linear"), (np.nan, "linear")):
        history = fn.train.History()
        history.training._extend([1, 2], {"loss": [10.0, low]})
        assert history.plot().axes[0].get_yscale() == scale


def test_a_number_that_is_not_finite_is_a_gap_in_the_mean():
    history = fn.train.History()
    values = np.ones(600)
    values[100] = np.nan
    history.training._extend(range(1, 601), {"loss": values.tolist()})
    ((_, (_, means)),) = panels(history.plot())["loss"].items()
    assert np.isnan(means).sum() == 10 and np.nanmax(np.abs(means - 1)) < 1e-12


def test_nothing_is_no_picture(monkeypatch):
    with pytest.raises(ValueError, match="plot takes a history of at least one step with a metric, got none"):
        fn.train.History().plot()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.delitem(sys.modules, "funcnets.train.fitting.curves")
    with pytest.raises(ImportError, match=r"history.plot\(\) takes matplotlib: pip install 'funcnets\[train\]'"):
        history_of().plot()
