"""The client against a fake server: order, limits, seeds, soft verdicts, retries, refusals, and where the key goes."""

import asyncio
import json
import logging
import random
import time
from dataclasses import asdict
from threading import Thread

import numpy as np
import pytest
from fake_server import FAULTS, Answer, FakeServer, FaultProxy, seeded_answer

from prefopt.core.errors import PrefoptError
from prefopt.core.settings import Config, parse_config
from prefopt.engines import client as client_module
from prefopt.engines.client import (
    FILTERED,
    GAVE_UP,
    NO_ROOM,
    REJECTED,
    AllRejected,
    ChatClient,
    ChatReply,
    ChatRequest,
    request_body,
)
from prefopt.engines.replies import NO_ROOM_FOR_ANSWER, kept_reply, read_refusal, read_reply, refused_field
from prefopt.engines.server_settings import HOW, ServerSettings

KEY = "sk-test-0123456789abcdefSECRET"


def settings(url, **more):
    return ServerSettings(**{"base_url": url, "model": "m", "backoff_s": 0.01, "timeout_s": 5, **more})


def ask(text, **more):
    return ChatRequest([{"role": "user", "content": text}], **{"max_tokens": 8, **more})


def asked(count, **more):
    return [ask(f"question {i}", seed=i, **more) for i in range(count)]


# ---- what is asked and what comes back


def test_replies_are_in_order_and_handed_over_as_they_come():
    def slow_first(body):
        time.sleep(0.3 if body["seed"] == 0 else 0)
        return f"answer {body['seed']}"

    seen = []
    with FakeServer(slow_first) as server:
        replies = ChatClient(settings(server.url)).ask(
            asked(9), lambda index, reply: seen.append((index, reply))
        )
    assert [reply.text for reply in replies] == [f"answer {i}" for i in range(9)]
    assert sorted(index for index, _ in seen) == list(range(9))
    assert seen[-1][0] == 0
    assert all(reply == replies[index] for index, reply in seen)
    assert replies[0].latency_s >= 0.3
    assert (replies[1].prompt_tokens, replies[1].completion_tokens, replies[1].finish_reason) == (
        2,
        3,
        "stop",
    )
    assert (replies[1].error, replies[1].top_logprobs) == ("", None)


def test_request_holds_what_was_asked_and_nothing_else():
    with FakeServer() as server:
        given = settings(server.url, extra={"min_p": 0.1})
        request = ask("hi", temperature=0.7, top_p=0.9, seed=5, top_logprobs=3, extra={"top_k": 4})
        ChatClient(given).ask([request, ask("bare")])
        assert sorted((call.body for call in server.calls), key=len, reverse=True) == [
            {
                "model": "m",
                "messages": [{"role": "user", "content": "hi"}],
                "max_tokens": 8,
                "temperature": 0.7,
                "top_p": 0.9,
                "seed": 5,
                "logprobs": True,
                "top_logprobs": 3,
                "min_p": 0.1,
                "top_k": 4,
            },
            {
                "model": "m",
                "messages": [{"role": "user", "content": "bare"}],
                "max_tokens": 8,
                "temperature": 0.0,
                "min_p": 0.1,
            },
        ]
        ChatClient(settings(server.url, length_field="max_completion_tokens")).ask([ask("x")])
        assert server.calls[-1].body["max_completion_tokens"] == 8
        assert "max_tokens" not in server.calls[-1].body


def test_answers_are_a_function_of_the_seed():
    with FakeServer() as server:
        client = ChatClient(settings(server.url))
        texts = [[reply.text for reply in client.ask([ask("q", seed=s) for s in range(20)])] for _ in "ab"]
    assert texts[0] == texts[1]
    assert len(set(texts[0])) > 3


def test_logprobs_stand_by_position_where_the_server_gives_them():
    tables = [{"A": -0.105, "B": -2.303}, {".": -0.01}]
    with FakeServer(lambda _: Answer("A .", top_logprobs=tables)) as server:
        client = ChatClient(settings(server.url))
        (with_them, without) = client.ask([ask("q", top_logprobs=2), ask("q")])
    assert with_them.top_logprobs == tuple(tables)
    assert without.top_logprobs is None
    with FakeServer(lambda _: Answer("A", top_logprobs=tables), logprobs=False) as server:
        (none,) = ChatClient(settings(server.url)).ask([ask("q", top_logprobs=2)])
    assert none.top_logprobs is None


@pytest.mark.parametrize("limit", [1, 5])
def test_no_more_calls_are_in_flight_than_allowed(limit):
    with FakeServer(latency_s=0.02) as server:
        ChatClient(settings(server.url, concurrency=limit)).ask(asked(20))
        assert server.peak == limit


def test_nothing_to_ask_needs_no_server():
    assert ChatClient(settings("http://127.0.0.1:9/v1")).ask([]) == []


def test_works_where_an_event_loop_runs_already():
    with FakeServer() as server:

        async def notebook():
            return ChatClient(settings(server.url)).ask(asked(3))

        assert len(asyncio.run(notebook())) == 3


def test_global_random_states_stay_as_they_were():
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    before = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    with FakeServer() as server, FaultProxy(server.url, rate=0.5, faults=("500", "429")) as proxy:
        ChatClient(settings(proxy.url)).ask(asked(10))
        assert proxy.counts["500"] + proxy.counts["429"] > 0
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # noqa: NPY002


# ---- faults


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_retried(fault):
    with FakeServer() as server, FaultProxy(server.url, rate=0.5, faults=(fault,), hold_s=0.4) as proxy:
        given = settings(proxy.url, timeout_s=0.2 if fault == "timeout" else 5, retries=12, concurrency=12)
        replies = ChatClient(given).ask(asked(12))
        assert proxy.counts[fault] > 0
        assert proxy.counts["ok"] == 12
    assert [reply.text for reply in replies] == [
        seeded_answer(
            {"messages": [{"role": "user", "content": f"question {i}"}], "seed": i, "temperature": 0.0}
        )
        for i in range(12)
    ]
    assert {reply.error for reply in replies} == {""}


def test_call_that_always_fails_is_given_up_and_told():
    def answer(body):
        return Answer("x", finish_reason=5) if "bad" in body["messages"][0]["content"] else "fine"

    refusals = {"bad": (503, {"error": {"message": "overloaded"}})}
    seen = []
    with FakeServer(answer, refusals=refusals) as server:
        client = ChatClient(settings(server.url, retries=2))
        replies = client.ask([ask("good"), ask("bad"), ask("good")], lambda *found: seen.append(found))
        assert [call.question for call in server.calls].count("bad") == 3
    assert [reply.error for reply in replies] == ["", GAVE_UP, ""]
    assert replies[1].text == ""
    assert len(seen) == 3


def test_server_that_is_gone_stops_the_run_with_one_line():
    seen = []
    with FakeServer() as server:
        url = server.url
    start = time.monotonic()
    with pytest.raises(
        PrefoptError, match=r"4 calls in a row failed, each tried 2 times \(the last: no conn"
    ):
        ChatClient(settings(url, retries=1, give_up_after=4, concurrency=2)).ask(
            asked(1000), lambda *found: seen.append(found)
        )
    assert time.monotonic() - start < 10
    assert 4 <= len(seen) <= 5


def test_what_came_before_the_end_has_been_handed_over():
    seen = {}
    with FakeServer(refusals={"question 7": (500, "no")}) as server:
        given = settings(server.url, retries=0, give_up_after=1, concurrency=1)
        with pytest.raises(PrefoptError, match="HTTP 500"):
            ChatClient(given).ask(asked(10), seen.__setitem__)
    assert sorted(seen) == list(range(8))
    assert [seen[i].error for i in range(8)] == [""] * 7 + [GAVE_UP]


def test_one_good_call_resets_the_count_of_failures():
    refusals = {f"question {i}": (500, "no") for i in range(0, 12, 2)}
    with FakeServer(refusals=refusals) as server:
        given = settings(server.url, retries=0, give_up_after=2, concurrency=1)
        replies = ChatClient(given).ask(asked(12))
    assert [reply.error for reply in replies] == [GAVE_UP, ""] * 6


def test_retry_after_is_respected():
    times = []

    class Busy(FaultProxy):
        def serve(self, handler):
            times.append(time.monotonic())
            body = handler.body()
            if len(times) == 1:
                handler.reply(429, b"{}", {"Retry-After": "0.6"})
            else:
                self._pass_on(handler, body, "ok")

    with FakeServer() as server, Busy(server.url) as proxy:
        ChatClient(settings(proxy.url)).ask([ask("q")])
    assert 0.6 <= times[1] - times[0] < 2


def test_waits_double_are_jittered_and_bounded():
    asking = client_module._Asking(
        settings("http://h/v1", backoff_s=1, backoff_max_s=8), "", random.Random(0), [], None
    )
    for attempt, mean in enumerate([1, 2, 4, 8, 8, 8]):
        waits = [asking._wait(attempt, None) for _ in range(500)]
        assert 0.5 * mean <= min(waits) < 0.6 * mean
        assert 1.4 * mean < max(waits) <= 1.5 * mean
    assert asking._wait(10_000, None) <= 12
    assert 7 <= asking._wait(0, 7.0) <= 8


def test_server_that_drips_is_a_timeout():
    class Dripping(FaultProxy):
        def serve(self, handler):
            handler.body()
            handler.send_response(200)
            handler.send_header("Content-Length", "1000")
            handler.end_headers()
            for _ in range(20):
                handler.wfile.write(b" ")
                handler.wfile.flush()
                time.sleep(0.1)

    with FakeServer() as server, Dripping(server.url) as proxy:
        start = time.monotonic()
        (reply,) = ChatClient(settings(proxy.url, timeout_s=0.4, retries=0)).ask([ask("q")])
    assert reply.error == GAVE_UP
    assert time.monotonic() - start < 1.5


# ---- refusals


@pytest.mark.parametrize(
    ("status", "body", "line"),
    [
        (
            400,
            {"error": {"message": "logprobs not here"}},
            r"refused \(HTTP 400\): logprobs not here; check the",
        ),
        (400, {"detail": [{"input": "a secret question"}]}, r"refused \(HTTP 400\); check"),
        (
            403,
            {"error": {"message": "no"}},
            r"refused \(HTTP 403\); check set the|refused \(HTTP 403\); check",
        ),
        (404, {"error": {"message": "model gone"}}, r"HTTP 404\): model gone; check server.base_url.*'m'"),
        (418, "teapot", r"refused \(HTTP 418\)"),
        (429, {"error": {"message": "pay", "code": "insufficient_quota"}}, r"refused \(HTTP 429\): pay"),
    ],
)
def test_wrong_request_is_one_line_at_once(status, body, line):
    with FakeServer(refusals={"a secret question": (status, body)}) as server:
        with pytest.raises(PrefoptError, match=line) as caught:
            ChatClient(settings(server.url)).ask([ask("a secret question")])
        assert len(server.calls) == 1
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_one_refused_prompt_among_many_is_a_reply_with_the_servers_words():
    refusals = {"bad": (400, {"error": {"message": "odd character"}}), "worse": (422, {"detail": "no"})}
    with FakeServer(refusals=refusals) as server:
        questions = ["bad", "a", "b", "worse", "bad"]
        replies = ChatClient(settings(server.url, concurrency=1)).ask([ask(q) for q in questions])
    assert [reply.error for reply in replies] == [REJECTED, "", "", REJECTED, REJECTED]
    assert [reply.said for reply in replies] == ["odd character", "", "", "no", "odd character"]


def test_many_refused_requests_in_a_row_stop_the_run_and_are_not_handed_over():
    kept: list[int] = []
    with FakeServer(refusals={"bad": (400, {"error": {"message": "no such field"}})}) as server:
        client = ChatClient(settings(server.url, concurrency=1, rejected_after=3))
        with pytest.raises(PrefoptError, match=r"no such field; check .* \(3 requests in a row\)"):
            client.ask(
                [ask(q) for q in ["a", "bad", "bad", "bad", "b"]], lambda index, reply: kept.append(index)
            )
    assert kept == [0]


def test_requests_of_which_none_is_answered_are_told_apart_by_who_knows_others():
    refusals = {"bad": (400, {"error": {"message": "no"}})}
    with (
        FakeServer(refusals=refusals) as server,
        pytest.raises(AllRejected, match=r"refused \(HTTP 400\): no") as caught,
    ):
        ChatClient(settings(server.url)).ask([ask("bad"), ask("bad")])
    assert {index: reply.error for index, reply in caught.value.replies.items()} == {0: REJECTED, 1: REJECTED}


@pytest.mark.parametrize("count", [10**30, 2**31, -1, 2.5, "3", True, None, [1], float("inf")])
def test_token_counts_that_cannot_be_are_none(count):
    said = {
        "choices": [{"message": {"content": "a"}}],
        "usage": {"prompt_tokens": 3, "completion_tokens": count},
    }
    reply = read_reply(json.dumps(said).encode())
    assert (reply.text, reply.prompt_tokens, reply.completion_tokens) == ("a", 3, None)


def test_kept_replies_are_read_back_and_others_are_none():
    reply = ChatReply("a", "stop", 3, 4, 0.5, ({"A": -0.1},), "", "")
    kept = json.loads(json.dumps(asdict(reply)))
    assert kept_reply(kept) == reply
    for change in (
        {"text": 3},
        {"prompt_tokens": 10**30},
        {"top_logprobs": 3},
        {"top_logprobs": [[1]]},
        {"more": 1},
        {"error": None},
    ):
        assert kept_reply({**kept, **change}) is None
    assert kept_reply(None) is None


def test_prompt_in_the_servers_words_is_not_shown():
    said = {"error": {"message": "bad input: 'My name is Alice and I live in Springfield'"}}
    question = "My name is Alice and I live in Springfield"
    with FakeServer(refusals={question: (400, said)}) as server, pytest.raises(PrefoptError) as caught:
        ChatClient(settings(server.url)).ask([ask(question)])
    assert "Alice" not in str(caught.value)
    assert "Springfield" not in str(caught.value)


def test_too_long_and_filtered_prompts_are_replies_with_their_reason():
    long = {"error": {"message": "This model's maximum context length is 16 tokens", "code": 400}}
    filtered = {"error": {"message": "policy", "code": "content_filter"}}

    def answer(body):
        return Answer("half", finish_reason="content_filter") if "cut" in str(body) else "fine"

    refusals = {"long": (400, long), "rude": (400, filtered)}
    with FakeServer(answer, refusals=refusals) as server:
        questions = [ask(text) for text in ("long", "rude", "cut", "fine")]
        replies = ChatClient(settings(server.url)).ask(questions)
        assert len(server.calls) == 4
    assert [reply.error for reply in replies] == [NO_ROOM, FILTERED, FILTERED, ""]
    assert [reply.text for reply in replies] == ["", "", "", "fine"]


# ---- settings


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"base_url": "localhost:8000/v1"}, "base_url is no http"),
        ({"base_url": "http://[::1"}, "base_url is no http"),
        ({"base_url": f"http://me:{KEY}@host/v1"}, "base_url holds a user"),
        ({"base_url": f"http://host/v1?key={KEY}"}, "base_url holds a user, a password or a query"),
        ({"base_url": "http://host/v1/chat/completions"}, "goes beyond /v1"),
        ({"api_key_env": KEY}, "api_key_env is the NAME"),
        ({"api_key": KEY}, "unknown key 'api_key'"),
        ({"extra": {"temperature": 1}}, "extra.temperature has a setting"),
        ({"extra": {"api_key": KEY}}, "extra holds a key"),
        ({"concurrency": 0}, "concurrency"),
        ({"timeout_s": 0}, "timeout_s"),
    ],
)
def test_bad_settings_are_lines_that_show_no_key(given, message):
    with pytest.raises(PrefoptError, match=message) as caught:
        parse_config(ServerSettings, {"base_url": "http://h/v1", "model": "m", **given}, "recipe")
    assert KEY not in str(caught.value)


def test_how_calls_are_made_is_no_part_of_what_is_asked():
    class Holder(Config):
        server: ServerSettings

    slow = Holder(server=settings("http://h/v1", concurrency=1, timeout_s=1, retries=0))
    fast = Holder(server=settings("http://h/v1", concurrency=9, api_key_env="OTHER_KEY", give_up_after=3))
    assert slow.model_dump(mode="json") == fast.model_dump(mode="json")
    assert not set(HOW) & set(slow.model_dump(mode="json")["server"])
    other = Holder(server=settings("http://h/v1", extra={"min_p": 0.2}))
    assert other.model_dump(mode="json") != slow.model_dump(mode="json")
    assert Holder.model_validate(slow.model_dump(exclude_unset=True)) == slow  # arms of a recipe


# ---- the key


def test_key_comes_from_the_named_variable_and_goes_to_the_server_alone(monkeypatch, capfd, caplog, tmp_path):
    monkeypatch.setenv("MY_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    with FakeServer(key=KEY) as server:
        given = settings(server.url, api_key_env="MY_KEY")
        client = ChatClient(given)
        (reply,) = client.ask([ask("q")])
        assert server.calls[0].authorization == f"Bearer {KEY}"
        monkeypatch.setenv("MY_KEY", KEY + "x")
        with pytest.raises(PrefoptError, match="check the key in the environment variable MY_KEY") as wrong:
            client.ask([ask("q")])
        monkeypatch.delenv("MY_KEY")
        with pytest.raises(PrefoptError, match="set the environment variable MY_KEY"):
            client.ask([ask("q")])
    shown = capfd.readouterr()
    everywhere = [
        str(reply), repr(client), str(vars(client)), repr(given), given.model_dump_json(), json.dumps(given.model_dump()),
        caplog.text, shown.out, shown.err, str(wrong.value), repr(wrong.value), repr(wrong.value.__cause__),
    ]  # fmt: skip
    assert not [text for text in everywhere if KEY[:12] in text]


def test_key_in_the_servers_words_is_taken_out(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    body = {"error": {"message": f"unknown field for {KEY}"}}
    with (
        FakeServer(refusals={"q": (400, body)}) as server,
        pytest.raises(PrefoptError, match=r"unknown field for \*\*\*") as caught,
    ):
        ChatClient(settings(server.url)).ask([ask("q")])
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("key", ["sk-schlüssel", "sk-a\nb", "sk\x00z"])
def test_key_that_cannot_be_sent_is_a_line_without_it(monkeypatch, key):
    if "\x00" in key:
        monkeypatch.setattr(client_module.os, "environ", {"OPENAI_API_KEY": key})
    else:
        monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(PrefoptError, match="OPENAI_API_KEY holds characters") as caught:
        ChatClient(settings("http://127.0.0.1:9/v1")).ask([ask("q")])
    assert "sk" not in str(caught.value)


def test_two_clients_at_once_in_threads():
    found = {}
    with FakeServer() as server:

        def work(name):
            found[name] = ChatClient(settings(server.url)).ask(asked(10))

        threads = [Thread(target=work, args=(name,)) for name in "ab"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [r.text for r in found["a"]] == [r.text for r in found["b"]]


def test_fields_at_their_defaults_and_those_left_out_are_not_sent():
    asked = ask("hi", temperature=1.0, top_p=1.0, seed=5, top_logprobs=3)
    settings = ServerSettings(
        base_url="http://127.0.0.1:1/v1", model="m", omit=["seed", "logprobs", "max_tokens"]
    )
    assert set(request_body(asked, settings)) == {"model", "messages"}
    with pytest.raises(ValueError, match="did you mean 'seed'"):
        ServerSettings(base_url="http://127.0.0.1:1/v1", model="m", omit=["sed"])


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"error": {"message": "Unsupported value: 'temperature' does not support 0", "param": "temperature"}}, "temperature"),
        ({"error": {"message": "`temperature` and `top_p` cannot both be specified"}}, "temperature"),
        ({"error": {"message": "top_p is not supported with this model"}}, "top_p"),
        ({"error": {"message": "Unrecognized request argument supplied: seed"}}, "seed"),
        ({"detail": "You are not allowed to request logprobs from this model"}, "logprobs"),
        ({"error": {"message": "unknown field", "param": "top_logprobs"}}, "logprobs"),
        ({"error": {"message": "the seeds of doubt"}}, None),
        ({"error": {"message": "Invalid API key"}}, None),
        ("no JSON", None),
    ],
)  # fmt: skip
def test_a_refusal_names_the_field_that_it_is_about(body, field):
    sent = request_body(ask("hi", temperature=0.0, top_p=0.9, seed=5, top_logprobs=3), ServerSettings(base_url="http://127.0.0.1:1/v1", model="m"))  # fmt: skip
    assert refused_field(body, sent) == field
    assert refused_field(body, {"model": "m"}) is None


@pytest.mark.parametrize(
    ("message", "param", "error"),
    [
        ("'max_tokens' is too large: 64. This model's maximum context length is 64 tokens and your request has 20 input tokens (64 > 64 - 20).", "max_tokens", NO_ROOM_FOR_ANSWER),
        ("This model's maximum context length is 4096 tokens. However, you requested 5000 tokens (904 in the messages, 4096 in the completion).", None, NO_ROOM_FOR_ANSWER),
        ("This model's maximum context length is 4096 tokens. However, your messages resulted in 5000 tokens.", None, NO_ROOM),
        ("This model's maximum context length is 64 tokens and your request has 90 input tokens.", None, NO_ROOM),
    ],
)  # fmt: skip
def test_a_context_too_small_for_the_answer_is_not_the_prompts_fault(message, param, error):
    body = {"error": {"message": message, "code": 400, **({"param": param} if param else {})}}
    assert read_refusal(400, {}, body).error == error
