"""The comparer: both orders, retries, cache, budget, continuation; and the figures of its verdicts."""

import json

import pytest

from prefopt.judges import Verdict
from prefopt.rules.tournament import ipr, knockout, most_comparisons, round_robin
from prefopt.stages.rank.comparer import Comparer, Contest, outcome_of
from prefopt.stages.rank.quality import (
    agreements,
    call_rates,
    cycle_figures,
    gold_outcome,
    kappa,
    length_bias,
    quality_of,
)
from prefopt.stages.rank.verdict_journal import VerdictJournal


class FakeJudge:
    """Prefers the longer answer; `position` wins regardless on prompts named so; counts its calls."""

    name = "fake"
    both_orders = True
    averages = False
    cacheable = True

    def __init__(self, *, fail_after=None, garbage=(), both_orders=True):
        self.asked = []
        self.fail_after = fail_after
        self.garbage = set(garbage)
        self.both_orders = both_orders

    def compare(self, batch, seed):
        found = []
        for call in batch:
            if self.fail_after is not None and len(self.asked) >= self.fail_after:
                raise RuntimeError("killed")
            self.asked.append((call.prompt_id, call.first["id"], call.second["id"]))
            found.append(self.one(call, seed))
        return found

    def one(self, call, seed):
        if call.first["id"] in self.garbage and (seed == 0 or "always" in self.garbage):
            return Verdict("unparsed", text="?")
        if call.prompt_id.startswith("position"):
            return Verdict("first", text="A", latency_s=0.1)
        if call.prompt_id.startswith("missing"):
            return Verdict("missing")
        lengths = len(call.first["completion"]), len(call.second["completion"])
        winner = "tie" if lengths[0] == lengths[1] else "first" if lengths[0] > lengths[1] else "second"
        return Verdict(winner, text="A" if winner == "first" else "B", latency_s=0.1, prompt_tokens=10)

    def describe(self):
        return {"kind": "fake"}


def contest(name, sizes=(1, 2, 3, 4, 5), **more):
    rows = [
        {"id": f"{name}-{k}", "completion": f"{name}{'x' * n}", "score": float(n), **more}
        for k, n in enumerate(sizes)
    ]
    return Contest(name, f"ask {name}", rows)


def run(comparer, contests, strategy=ipr, name="ipr"):
    return comparer.run(
        contests, lambda k: strategy(list(range(len(contests[k].rows)))), lambda n: most_comparisons(name, n)
    )


def test_prompts_are_played_in_common_rounds():
    judge = FakeJudge()
    comparer = Comparer(judge)
    contests = [contest(f"p{k}") for k in range(10)] + [contest("short", (3, 1))]
    played = run(comparer, contests)
    assert [(g.final.best, g.final.worst, g.final.reason) for g in played] == [(4, 0, "")] * 10 + [(0, 1, "")]
    assert comparer.counts.rounds <= 7
    assert comparer.counts.calls == len(judge.asked) == 2 * comparer.counts.comparisons
    assert comparer.counts.comparisons <= 10 * 7 + 1
    assert len(comparer.verdicts) == len(judge.asked)
    assert comparer.verdicts[0]["winner_id"] == "p0-1"
    assert "latency_s" not in comparer.verdicts[0]
    assert comparer.timings[0]["seconds"] == 0.1


def test_position_bias_is_a_tie_and_missing_is_missing():
    for name, reason in (("position", "best and worst tie"), ("missing", "no verdict on best against worst")):
        (game,) = run(Comparer(FakeJudge()), [contest(name)])
        assert game.final.reason == reason
    comparer = Comparer(FakeJudge())
    run(comparer, [contest("position")])
    rates = call_rates(comparer.verdicts, both_orders=True)
    assert rates == {"swap_consistency": 0.0, "first_slot_rate": 1.0}


@pytest.mark.parametrize(
    ("winners", "probabilities", "averages", "outcome"),
    [
        (("first", "second"), (None, None), False, "a"),
        (("second", "first"), (None, None), False, "b"),
        (("first", "first"), (0.9, 0.6), False, "tie"),
        (("first", "first"), (0.9, 0.6), True, "a"),  # mean P(a) = (.9 + .4) / 2
        (("first", "first"), (0.6, 0.6), True, "tie"),
        (("first", "first"), (0.6, 0.51), True, "tie"),  # .545: within the band
        (("first", "tie"), (None, None), True, "tie"),
        (("first", "unparsed"), (None, None), False, "tie"),
        (("missing", "second"), (None, None), False, "missing"),
        (("second",), (None,), False, "b"),
    ],
)
def test_outcome_of_both_orders(winners, probabilities, averages, outcome):
    verdicts = [Verdict(w, p) for w, p in zip(winners, probabilities, strict=True)]
    assert outcome_of(verdicts, averages=averages) == outcome


def test_an_unparsable_verdict_is_asked_for_once_more():
    judge = FakeJudge(garbage=["p-0"])
    comparer = Comparer(judge)
    (game,) = run(comparer, [contest("p", (5, 1))])
    assert (game.final.best, game.final.reason, comparer.counts.retried) == (0, "", 1)
    assert [row["attempt"] for row in comparer.verdicts] == [0, 1, 0]
    judge = FakeJudge(garbage=["p-0", "always"])
    comparer = Comparer(judge)
    (game,) = run(comparer, [contest("p", (5, 1))])
    assert game.final.reason == "best and worst tie"
    assert len(judge.asked) == 3


def test_verdicts_are_shared_between_strategies_and_never_asked_twice(tmp_path):
    path, contests = tmp_path / "verdicts.jsonl", [contest("p"), contest("q"), contest("missing")]
    run(Comparer(FakeJudge(), journal=VerdictJournal(path, "ipr")), contests)
    judge = FakeJudge()
    comparer = Comparer(judge, journal=VerdictJournal(path, "other"))
    run(comparer, contests, round_robin, "round_robin")
    known = {tuple(sorted(asked[1:])) for asked in judge.asked if asked[0] != "missing"}
    assert comparer.counts.reused > 0
    assert comparer.counts.reused + comparer.counts.calls == 3 * 20
    assert sum(asked[0] == "missing" for asked in judge.asked) == 20  # missing is not kept
    assert len(known) < 20
    again = FakeJudge()
    run(Comparer(again, journal=VerdictJournal(path, "third")), contests[:2], knockout, "knockout")
    assert again.asked == []
    assert "latency" not in path.read_text()


@pytest.mark.parametrize("after", [0, 1, 7, 23, 40])
def test_a_killed_run_goes_on_without_repeated_calls(tmp_path, after, monkeypatch):
    monkeypatch.setattr("prefopt.stages.rank.comparer.CHUNK", 4)
    contests = [contest(f"p{k}", (2, 4, 1, 3)) for k in range(5)]
    whole = Comparer(FakeJudge())
    expected = run(whole, contests)
    path = tmp_path / "v.jsonl"
    broken = FakeJudge(fail_after=after)
    with pytest.raises(RuntimeError, match="killed"):
        run(Comparer(broken, journal=VerdictJournal(path, "key")), contests)
    kept = path.read_text().count('"owner"')
    assert after - 4 < kept <= after  # at most the chunk in flight is lost
    with path.open("a") as file:
        file.write('{"key": "torn')
    judge = FakeJudge()
    comparer = Comparer(judge, journal=VerdictJournal(path, "key"))
    assert run(comparer, contests) == expected
    assert comparer.counts == whole.counts  # calls before the kill count as this run's
    assert comparer.verdicts == whole.verdicts
    assert len(judge.asked) + kept == whole.counts.calls
    lines = [json.loads(line) for line in path.read_text().splitlines() if line and not line.endswith("torn")]
    assert len({line["key"] for line in lines}) == len(lines) == whole.counts.calls


@pytest.mark.parametrize("budget", [0, 13, 14, 40, 1000])
def test_the_budget_stops_cleanly(budget):
    judge = FakeJudge(garbage=["p0-0"])
    comparer = Comparer(judge, budget=budget)
    contests = [contest(f"p{k}") for k in range(6)]
    played = run(comparer, contests)
    done = [game for game in played if game.final is not None]
    assert len(judge.asked) <= budget
    assert len(done) == (6 if budget == 1000 else 0 if budget < 16 else len(done))
    assert budget != 40 or 1 <= len(done) < 6
    assert all(not game.outcomes for game in played if game.final is None)  # nothing is begun in vain


def test_without_orders_a_pair_is_one_call():
    judge = FakeJudge(both_orders=False)
    comparer = Comparer(judge)
    contests = [contest("p", (3, 5, 1, 2, 4))]
    played = run(comparer, contests, round_robin, "round_robin")
    assert comparer.counts.calls == 10
    figures = quality_of(comparer, contests, played)
    assert figures["swap_consistency"] is None
    assert figures["first_slot_rate"] is None
    assert (figures["agreement"], figures["kappa"], figures["agreement_with"]) == (1.0, 1.0, "score")
    assert figures["length_bias"]["mean"] == 1.0
    assert figures["tokens"] == {"prompt_tokens": 100, "completion_tokens": 0}
    assert json.loads(json.dumps(figures)) == figures


def test_kappa_by_hand():
    assert kappa([("a", "a"), ("b", "b")]) == 1.0
    assert kappa([("a", "b"), ("b", "a")]) == -1.0
    # 4 of 6 agree; a: 4 and 4, b: 2 and 2, so 20/36 are expected
    assert kappa([*[("a", "a")] * 3, ("a", "b"), ("b", "b"), ("b", "a")]) == pytest.approx(
        (24 - 20) / (36 - 20)
    )
    assert kappa([("a", "a")]) is None
    assert kappa([]) is None


def test_agreement_reads_votes_flags_scores_and_ranks():
    votes = [{"model_a": "m", "model_b": "n", "human_votes": ["b", "b", "a"]}]
    one = {"id": "1", "model": "m", "judgments": votes, "is_correct": True, "rank": 0, "score": None}
    other = {"id": "2", "model": "n", "judgments": votes, "is_correct": False, "rank": 0, "score": 1.0}
    found = {
        source: gold_outcome(source, one, other) for source in ("human_votes", "is_correct", "rank", "score")
    }
    assert found == {"human_votes": "b", "is_correct": "a", "rank": "tie", "score": None}
    assert gold_outcome("rank", {"rank": "gold"}, {"rank": "silver"}) is None


def test_cycles_and_length_bias_over_contests():
    class Rock(FakeJudge):
        def one(self, call, seed):
            first, second = (int(row["id"][-1]) for row in (call.first, call.second))
            return Verdict("first" if (second - first) % 3 == 1 else "second")

    comparer, contests = Comparer(Rock()), [contest("p", (1, 2, 3))]
    played = run(comparer, contests, round_robin, "round_robin")
    assert cycle_figures(contests, played)["cycle_rate"] == 1.0
    assert played[0].final.reason == "all answers are equal"
    assert length_bias(contests, played)["mean"] == pytest.approx(1 / 3)
    assert agreements(contests, played)["score"]["decided"] == 3
