"""The server judge against a fake server on loopback: verdicts, retries, soft verdicts, the journal, no key anywhere."""

import math

import fake_server as fake
import pytest

from prefopt.core.errors import PrefoptError
from prefopt.core.settings import parse_config
from prefopt.engines.client import ChatReply
from prefopt.judges import Comparison, PairwiseJudgeConfig, Verdict, open_judge
from prefopt.judges.server import JOURNAL, ReplyJournal, soft_verdict
from prefopt.tables.context import Context
from prefopt.tables.folder import WORK, StageFolder

KEY = "sk-not-to-be-seen-0123456789"


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")


def longer_wins(body):
    """The fake judge's opinion: the longer answer, at great length."""
    text = body["messages"][-1]["content"]
    first = text.split("<answer_A>\n")[1].split("\n</answer_A>")[0]
    second = text.split("<answer_B>\n")[1].split("\n</answer_B>")[0]
    side = "A" if len(first) > len(second) else "B" if len(second) > len(first) else "tie"
    return f"Answer A says {first}, answer B says {second}.\n{side}"


def calls(n):
    return [
        Comparison(f"p{k}", f"question {k}", {"completion": "x" * k}, {"completion": "y" * (n - k)})
        for k in range(n + 1)
    ]


def opened(url, folder=None, **settings):
    server = {"base_url": url, "model": "m", "backoff_s": 0.0, **settings.pop("server", {})}
    config = parse_config(PairwiseJudgeConfig, {"kind": "server", "server": server, **settings}, "test")
    return open_judge(config, Context(folder=StageFolder(folder) if folder else None))


def test_verdicts_in_order_whatever_the_order_of_arrival():
    with fake.FakeServer(longer_wins) as server:
        judge = opened(server.url)
        verdicts = judge.compare(calls(6), seed=3)
        assert [v.winner for v in verdicts] == ["second"] * 3 + ["tie"] + ["first"] * 3
        assert judge.both_orders
        assert not judge.averages
        assert all(v.text.startswith("Answer A says") and v.latency_s > 0 for v in verdicts)
        assert all(v.prompt_tokens > 0 and v.completion_tokens > 0 for v in verdicts)
        bodies = [call.body for call in server.calls]
    assert {body["temperature"] for body in bodies} == {0.0}
    assert len({body["seed"] for body in bodies}) == 7


def test_seeds_follow_from_the_call_and_not_from_the_batch():
    with fake.FakeServer(longer_wins) as server:
        opened(server.url).compare(calls(4), seed=3)
        opened(server.url).compare(calls(4)[::-1], seed=3)
        opened(server.url).compare(calls(4), seed=4)
        seeds = [{c.body["seed"] for c in server.calls[5 * k : 5 * k + 5]} for k in range(3)]
    assert seeds[0] == seeds[1]
    assert not seeds[0] & seeds[2]


def test_what_has_no_verdict_is_asked_once_more_with_another_seed():
    def answer(body):
        stubborn = "question 1" in body["messages"][-1]["content"]
        return "I cannot say." if stubborn or body["temperature"] == 0 else "A"

    with fake.FakeServer(answer) as server:
        verdicts = opened(server.url).compare(calls(1), seed=0)
        bodies = [call.body for call in server.calls]
    assert [v.winner for v in verdicts] == ["first", "unparsed"]
    assert verdicts[1].text == "I cannot say."
    assert len(bodies) == 4  # once more each, and no more
    assert [v.calls for v in verdicts] == [2, 2]
    assert len({body["seed"] for body in bodies}) == 4
    assert verdicts[0].completion_tokens == (3 + 1) + (1 + 1)  # both answers are paid for


def test_soft_verdicts_where_logprobs_are_offered():
    tops = [
        {"Fine": -0.1},
        {"A": math.log(0.6), " B": math.log(0.2), "tie": math.log(0.1), " A": math.log(0.1)},
    ]
    answer = fake.Answer("Fine.\nA", top_logprobs=tops)
    with fake.FakeServer(lambda body: answer) as server:
        verdict = opened(server.url).compare(calls(0), seed=0)[0]
        assert verdict.probability == pytest.approx(0.7 / 0.9)
        assert server.calls[0].body["top_logprobs"] == 5
        assert opened(server.url, top_logprobs=0).compare(calls(0), seed=0)[0].probability is None
        assert "logprobs" not in server.calls[-1].body
    with fake.FakeServer(lambda body: answer, logprobs=False) as server:
        assert opened(server.url).compare(calls(0), seed=0)[0].probability is None


@pytest.mark.parametrize(
    ("tops", "winner", "p"),
    [
        (None, "first", None),
        ((), "first", None),
        (({"B": -0.1, "A": -3.0},), "second", math.exp(-3) / (math.exp(-3) + math.exp(-0.1))),
        (({"A": -0.1},), "first", 1.0),
        (({"A": -0.1, "B": -3.0},), "second", None),  # contradicts the words
        (({"A": -0.1, "B": -3.0}, {"tie": 0.0}), "tie", None),
        (({"**A**": -0.1, "[[B]]": -2.0}, {"<|im_end|>": 0.0}), "first", 1 / (1 + math.exp(-1.9))),
        (({},), "first", None),
    ],
)
def test_probability_of_the_verdict_token(tops, winner, p):
    assert soft_verdict(tops, winner) == (None if p is None else pytest.approx(p))


def test_a_killed_run_asks_for_nothing_twice(tmp_path):
    class Killed(BaseException):
        pass

    with fake.FakeServer(longer_wins) as server:
        judge = opened(server.url, tmp_path, server={"concurrency": 2})
        add = judge.journal.add

        def dying(key, reply):
            if len(judge.journal.known) == 3:
                raise Killed
            add(key, reply)

        judge.journal.add = dying
        with pytest.raises(Killed):
            judge.compare(calls(6), seed=1)
        asked = len(server.calls)
        path = tmp_path / WORK / JOURNAL
        whole = path.read_text()
        path.write_text(whole + whole.splitlines()[0][:40])  # cut within a line
        again = opened(server.url, tmp_path).compare(calls(6), seed=1)
        assert len(server.calls) == asked + 7 - 3
        assert [v.winner for v in again] == ["second"] * 3 + ["tie"] + ["first"] * 3
        assert [v.winner for v in opened(server.url, tmp_path).compare(calls(6), seed=1)] == [
            v.winner for v in again
        ]
        assert len(server.calls) == asked + 7 - 3


def test_the_journal_keeps_replies_as_they_are(tmp_path):
    reply = ChatReply("A", "stop", 3, None, 0.25, ({"A": -0.5},), "")
    path = tmp_path / "deep" / "j.jsonl"
    with ReplyJournal(path) as journal:
        journal.add("k", reply)
    assert ReplyJournal(path).known == {"k": reply}


def test_equal_calls_are_asked_once():
    with fake.FakeServer(longer_wins) as server:
        verdicts = opened(server.url).compare([calls(3)[1]] * 4, seed=0)
        assert len(server.calls) == 1
    assert len({v.winner for v in verdicts}) == 1


def test_under_faults_nothing_is_lost_and_nothing_doubled(tmp_path):
    with (
        fake.FakeServer(longer_wins) as server,
        fake.FaultProxy(server.url, rate=0.3, seed=1, hold_s=0.3) as proxy,
    ):
        settings = {"retries": 12, "timeout_s": 0.25, "backoff_max_s": 0.01}
        verdicts = opened(proxy.url, tmp_path, server=settings).compare(calls(30), seed=0)
    assert [v.winner for v in verdicts] == ["second"] * 15 + ["tie"] + ["first"] * 15
    assert len(ReplyJournal(tmp_path / WORK / JOURNAL).known) == 31


def test_calls_that_failed_for_good_stop_the_run_and_it_continues_there(tmp_path):
    broken = {"on": True}

    def answer(body):
        if broken["on"] and "question 2" in body["messages"][-1]["content"]:
            raise ConnectionAbortedError
        return longer_wins(body)

    with fake.FakeServer(answer) as server:
        settings = {"retries": 0, "timeout_s": 0.5}
        with pytest.raises(
            PrefoptError, match=r"1 of 5 calls failed after all retries.*start the same command"
        ):
            opened(server.url, tmp_path, server=settings).compare(calls(4), seed=0)
        broken["on"] = False
        before = len(server.calls)
        verdicts = opened(server.url, tmp_path, server=settings).compare(calls(4), seed=0)
        assert len(server.calls) == before + 1
    assert [v.winner for v in verdicts] == ["second", "second", "tie", "first", "first"]


def test_a_prompt_without_room_is_missing_and_no_tie():
    refusal = (400, {"error": {"message": "too long", "code": "context_length_exceeded"}})
    with fake.FakeServer(longer_wins) as server:
        judge = opened(server.url)
        question = judge._request(calls(2)[0], 0, again=False).messages[-1]["content"]
        server.refusals[question] = refusal
        verdicts = judge.compare(calls(2), seed=0)
    assert verdicts[0] == Verdict(
        "missing", text="prompt fills the model's context", latency_s=verdicts[0].latency_s
    )
    assert [v.winner for v in verdicts[1:]] == ["tie", "first"]


def test_no_key_in_files_messages_or_descriptions(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with fake.FakeServer(longer_wins, key=KEY) as server:
        judge = opened(server.url, tmp_path)
        judge.compare(calls(2), seed=0)
        assert KEY not in str(judge.describe()) + repr(judge) + repr(vars(judge))
        monkeypatch.setenv("OPENAI_API_KEY", "wrong-" + KEY)
        with pytest.raises(PrefoptError) as error:
            opened(server.url, tmp_path / "b").compare(calls(2), seed=0)
    assert KEY not in str(error.value)
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes()


def test_settings_that_do_not_work_are_told():
    with pytest.raises(PrefoptError, match="no server; set"):
        open_judge(PairwiseJudgeConfig(kind="server"), Context())
    with pytest.raises(PrefoptError, match="unknown judge, did you mean 'server'"):
        parse_config(PairwiseJudgeConfig, {"kind": "servr"}, "x")
