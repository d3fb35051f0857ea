"""Ratings from votes whose answer is known."""

import math

import numpy as np
import pytest
from scipy.optimize import minimize

from benchmarks import coverage
from visgen_fast.evaluation import Vote, agreement, bradley_terry, cycles

STRENGTHS = {"a": 0.9, "b": 0.2, "c": -0.3, "d": -0.8}


def drawn(count, seed=0, ties=0.2, raters=6):
    """Votes of raters who share one taste."""
    draws, votes = np.random.default_rng(seed), []
    for number in range(count):
        left, right = (str(name) for name in draws.permutation(list(STRENGTHS))[:2])
        wins = draws.random() < 1 / (1 + math.exp(STRENGTHS[right] - STRENGTHS[left]))
        outcome = "tie" if draws.random() < ties else "left" if wins else "right"
        votes.append(Vote(left, right, outcome, f"r{number % raters}"))
    return votes


def test_ratings_maximize_the_likelihood_with_ties_as_half_wins():
    votes = drawn(300)
    names = list(STRENGTHS)
    left, right = (np.array([names.index(getattr(vote, side)) for vote in votes]) for side in ("left", "right"))
    points = np.array([vote.points for vote in votes])

    def loss(theta):
        gap = theta[left] - theta[right]
        return float(np.sum(points * np.logaddexp(0, -gap) + (1 - points) * np.logaddexp(0, gap)))

    theta = minimize(loss, np.zeros(4), tol=1e-14, options={"gtol": 1e-9}).x
    found = bradley_terry(votes).elo
    for name, value in zip(names, theta - theta.mean(), strict=True):
        assert (found[name] - 1500) * math.log(10) / 400 == pytest.approx(value, abs=1e-5)


def test_ratings_equal_those_of_choix():
    choix = pytest.importorskip("choix", reason="the package choix is not installed", exc_type=ImportError)
    votes, names = drawn(300, ties=0), list(STRENGTHS)
    wins = [(vote.left, vote.right) if vote.outcome == "left" else (vote.right, vote.left) for vote in votes]
    theta = choix.opt_pairwise(4, [(names.index(one), names.index(other)) for one, other in wins], tol=1e-12)
    found = bradley_terry(votes).elo
    for name, value in zip(names, theta - theta.mean(), strict=True):
        assert (found[name] - 1500) * math.log(10) / 400 == pytest.approx(value, abs=1e-5)


def test_two_sets_are_four_hundred_points_apart_at_ten_wins_to_one():
    votes = [Vote("good", "bad", "left", str(number)) for number in range(10)] + [Vote("bad", "good", "left", "x")]
    found = bradley_terry(votes)
    assert found.elo == pytest.approx({"good": 1700, "bad": 1300})
    assert found.left_share == 1
    assert not found.notes and found.intervals["good"][0] < 1700 < found.intervals["good"][1]


def test_swapping_the_sides_changes_nothing_but_the_left_share():
    votes = drawn(200)
    swapped = {"left": "right", "right": "left", "tie": "tie"}
    mirrored = bradley_terry([Vote(vote.right, vote.left, swapped[vote.outcome], vote.rater) for vote in votes])
    found = bradley_terry(votes)
    assert mirrored.elo == pytest.approx(found.elo)
    assert mirrored.intervals["a"] == pytest.approx(found.intervals["a"])
    assert mirrored.left_share == pytest.approx(1 - found.left_share)


def test_a_raters_hundred_votes_are_not_a_hundred_people():
    """Two raters of opposite taste: a hundred more votes of each tell nothing new."""
    few = [Vote("a", "b", side, rater) for rater, side in (("x", "left"), ("y", "right")) for _ in range(5)]
    few += [Vote("a", "b", "right", "x"), Vote("a", "b", "left", "y")]
    widths = []
    for votes in (few, few * 20):
        low, high = bradley_terry(votes).intervals["a"]
        widths.append(high - low)
    assert widths[1] == pytest.approx(widths[0])
    ignored = bradley_terry([Vote(vote.left, vote.right, vote.outcome, str(n)) for n, vote in enumerate(few * 20)])
    assert ignored.intervals["a"][1] - ignored.intervals["a"][0] < widths[1] / 5


def test_intervals_hold_the_truth_only_where_raters_count():
    shares = coverage.ratings(40)
    assert shares["by rater"] >= 0.9
    assert shares["raters ignored"] < shares["by rater"] - 0.05


def test_ranks_are_certain_where_the_differences_are():
    sure = bradley_terry(drawn(4000, ties=0)).ranks
    assert [sure[name] for name in STRENGTHS] == [(1, 1), (2, 2), (3, 3), (4, 4)]
    unsure = bradley_terry(drawn(60)).ranks
    assert all(low <= place <= high for place, (low, high) in enumerate((unsure[name] for name in STRENGTHS), 1))
    assert any(low < high for low, high in unsure.values())


def test_sets_without_a_finite_rating_are_named_and_leave_the_others_as_they_are():
    votes = drawn(200)
    alone = [Vote("p", "q", "left", "x"), Vote("q", "p", "left", "x")]
    extreme = [Vote("a", "never wins", "left", "x"), Vote("always wins", "b", "left", "y")]
    found = bradley_terry(votes + alone + extreme)
    assert {name for name, elo in found.elo.items() if math.isnan(elo)} == {"p", "q", "never wins", "always wins"}
    assert found.elo["a"] == pytest.approx(bradley_terry(votes).elo["a"])
    told = "\n".join(found.notes)
    assert "never wins never won a vote" in told and "always wins never lost a vote" in told
    assert "no votes connect p with a, b, c, d" in told and "no votes connect q with" in told
    assert found.ranks["a"] == (1, 8)


def test_groups_that_only_lose_to_another_are_named():
    """c and d have rivals of their own, and against a and b they lose always."""
    votes = [Vote(*sets, "left", "x") for sets in ("ab", "ba", "ab", "cd", "dc", "ac", "bd")]
    found = bradley_terry(votes)
    assert math.isnan(found.elo["c"]) and math.isfinite(found.elo["a"])
    assert any("no wins and losses lead both from c" in note for note in found.notes)
    none = bradley_terry([Vote("a", "b", "left", "x")])
    assert all(map(math.isnan, none.elo.values())) and len(none.notes) == 2


def test_one_raters_votes_are_said_to_be_that():
    votes = [Vote("a", "b", side, "only") for side in ("left", "left", "right")]
    found = bradley_terry(votes)
    assert any("one rater" in note for note in found.notes)
    assert found.intervals["a"][0] < found.elo["a"] < found.intervals["a"][1]


def test_agreement_compares_votes_on_the_same_pictures():
    votes = [
        Vote("a", "b", "left", "x", "1"),
        Vote("b", "a", "right", "x", "1"),  # the same choice, mirrored
        Vote("a", "b", "right", "y", "1"),  # disagrees with both
        Vote("a", "b", "tie", "x", "2"),
        Vote("a", "b", "tie", "y", "2"),
        Vote("a", "b", "left", "y", "3"),
    ]
    found = agreement(votes)
    assert found.within == 1 and found.between == pytest.approx(1 / 3)
    nothing = agreement(votes[-1:])
    assert math.isnan(nothing.within) and math.isnan(nothing.between)


def test_a_cycle_counts_where_it_survives_its_uncertainty():
    circle = [Vote(*sets, "left", f"r{number}") for number in range(12) for sets in ("ab", "bc", "ca")]
    circle += [Vote("d", name, "right", f"r{number}") for number in range(12) for name in "abc"]
    # One who thinks otherwise, so that there is an uncertainty to survive.
    circle += [Vote(*sets, "right", "r0") for sets in ("ab", "bc", "ca")]
    found = cycles(circle)
    assert len(found) == 1 and sorted(found[0]) == ["a", "b", "c"]
    winner, loser = found[0][:2]
    assert (winner, loser) in {("a", "b"), ("b", "c"), ("c", "a")}
    assert (
        cycles(
            [Vote(*sets, "left", f"r{number}") for number in range(2) for sets in ("ab", "bc", "ca")]
            + [Vote(*sets, "right", "r2") for sets in ("ab", "bc", "ca")]
        )
        == []
    )


def test_votes_that_are_none_are_refused_in_a_sentence():
    with pytest.raises(ValueError, match="at least 1 vote, got none"):
        bradley_terry([])
    with pytest.raises(ValueError, match="outcome must be one of left, tie, right, got 'up'"):
        Vote("a", "b", "up")
    with pytest.raises(ValueError, match="different sets, got 'a' twice"):
        Vote("a", "a", "left")
