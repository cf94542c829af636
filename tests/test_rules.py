"""Rules over paths."""

import pytest

from funcnets.rules import chosen, matches


@pytest.mark.parametrize(
    ("pattern", "path", "fits"),
    [
        ("a/kernel", "a/kernel", True),
        ("a/kernel", "a/kernel/b", False),
        ("*/kernel", "a/kernel", True),
        ("*/kernel", "kernel", False),
        ("*/kernel", "a/b/kernel", False),
        ("**/kernel", "kernel", True),
        ("**/kernel", "a/b/kernel", True),
        ("a/**", "a", True),
        ("a/**", "a/b/c", True),
        ("a/**", "ab/c", False),
        ("**", "", True),
        ("", "", True),
        ("", "a", False),
        ("**/b/**/d", "a/b/c/d", True),
        ("**/b/**/d", "b/d", True),
        ("**/b/**/d", "d", False),
        ("dense_*/kernel", "dense_12/kernel", True),
        ("dense_?/kernel", "dense_12/kernel", False),
        ("Dense_0", "dense_0", False),
    ],
)
def test_patterns(pattern, path, fits):
    assert matches(pattern, path) == fits


def test_the_first_rule_that_fits_gives_the_value():
    there = ["a/kernel", "a/bias", "b/kernel"]
    assert chosen({"a/kernel": 1, "**/kernel": 2}, there, "parameter") == {"a/kernel": 1, "b/kernel": 2}
    with pytest.raises(
        ValueError, match=r"'a/kernl' matches no parameter \(did you mean 'a/kernel'\?\); there are 'a/k"
    ):
        chosen({"a/kernl": 1}, there, "parameter")
    with pytest.raises(ValueError, match=r"'b' matches no parameter \(all that is in it is 'b/\*\*'\); there are"):
        chosen({"b": 1}, there, "parameter")
    with pytest.raises(ValueError, match="there are none"):
        chosen({"a": 1}, [], "parameter")


@pytest.mark.parametrize(
    ("before", "pattern", "dead"),
    [
        ("**", "**/bias", True),
        ("**/bias", "encoder/dense_0/bias", True),
        ("**/kernel", "dense_*/kernel", True),
        ("encoder/**", "encoder/*/bias", True),
        ("**", "*", True),
        ("encoder/**", "**/bias", False),  # which may speak of others in another net
        ("*", "**", False),
        ("*/bias", "**/bias", False),
        ("?", "*", False),
        ("dense_*/kernel", "*/kernel", False),
        ("**/bias", "**", False),
    ],
)
def test_a_rule_after_one_that_takes_all_it_could_is_refused(before, pattern, dead):
    def ruled(rules):
        return chosen(rules, ["a"], "thing", lambda *_: True)  # which paths there are does not matter

    if dead:
        with pytest.raises(ValueError, match=r"the rule for .* does nothing: .* Put the special rule before"):
            ruled({before: 1, pattern: 2})
    else:
        assert ruled({before: 1, pattern: 2}) == {"a": 1}
    assert ruled({before: 1, pattern: 1}) == {"a": 1}  # of one value: no harm done
