"""A run that is ended at any moment, and started again, is the same run, bit by bit; and what was saved stays saved."""

import itertools

import pytest
from lineage import INT, KILL, TERM, Reference, lineage, names, start

AGAIN = "interrupt again to leave without it"
TRAINED = ("params", "state", "opt_state", "key", "step")


def check_kills(tmp_path, reference, points):
    """SIGKILL at that many moments: every step that is there is whole, among them the one before the last saved."""
    for seed in itertools.count():
        directory, most = tmp_path / str(seed), 0
        for ended, steps in lineage(directory, reference, seed, KILL):
            assert (ended.code, ended.errors) in [(0, ""), (-KILL, "")], ended
            assert ended.numbers("resumed") in ([], [most])
            assert sorted([most, *ended.numbers("saved")])[-2:][0] <= max(steps, default=0), (ended, steps)
            most = max(steps, default=0)
            assert len(names(directory)) <= 5  # two that are kept, one more, and two that are half-written or -deleted
            points -= ended.code != 0
        assert {*names(directory)} in ({"21", "24"}, {"18.deleting", "21", "24"})  # killed after its last save
        if points <= 0:
            return


def check_signals(tmp_path, reference, number, points):
    """A signal that asks the program to end, at that many moments: every step that was saved is there."""
    for seed in itertools.count():
        saved = set()
        for ended, steps in lineage(tmp_path / str(seed), reference, seed, number, keep=()):
            saved.update(ended.numbers("saved"))
            assert saved <= set(steps), ended
            points -= ended.code != 0
            check_ending(ended, number)
        if points <= 0:
            return


def check_ending(ended, number):
    said = {TERM: "SystemExit: 143", INT: "KeyboardInterrupt"}[number]
    at_risk = ended.numbers("saved") and "done" not in ended.told
    if not ended.errors:  # while it has something to lose it is ended by no signal
        assert ended.code in {TERM: (0, 128 + TERM), INT: (0,)}[number] or (ended.code == -number and not at_risk), (
            ended
        )
    else:  # where C calls Python another error may be made of it, or none until the next save
        assert said in ended.errors or (number == INT and AGAIN in ended.errors), ended
    assert "in <module 'threading'" not in ended.errors, ended


def test_a_run_that_is_killed_is_the_same_run(tmp_path, reference):
    check_kills(tmp_path, reference, 4)


@pytest.mark.parametrize("number", [TERM, INT], ids=["SIGTERM", "SIGINT"])
def test_what_was_saved_stays_saved(tmp_path, reference, number):
    check_signals(tmp_path, reference, number, 2)


@pytest.mark.nightly
def test_a_run_that_is_killed_at_200_moments_is_the_same_run(tmp_path, reference):
    check_kills(tmp_path, reference, 200)


@pytest.mark.nightly
@pytest.mark.parametrize("number", [TERM, INT], ids=["SIGTERM", "SIGINT"])
def test_what_was_saved_stays_saved_at_100_moments(tmp_path, reference, number):
    check_signals(tmp_path, reference, number, 100)


def test_100_steps_are_37_and_the_rest(tmp_path):
    whole = Reference(tmp_path, steps=100)
    first = start(tmp_path / "parts", whole.cache, 2, steps=100, fault=f"begun 37,0,{int(KILL)}")
    assert first.code == -KILL
    assert max(first.numbers("begun")) in range(37, 43)  # it may take a few more before it is killed
    rest = start(tmp_path / "parts", whole.cache, 2, steps=100)
    assert (rest.code, rest.errors) == (0, "")
    assert rest.numbers("resumed")[0] in (33, 36, 39)
    assert whole.check(tmp_path / "parts") == (99, 100)
    parts = ["['losses']", "['rows']", *(f"['state']['{part}']" for part in TRAINED)]
    assert all(any(path.startswith(part) for path in whole.at[100]) for part in parts), whole.at[100].keys()
