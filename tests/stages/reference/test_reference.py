"""Stage 04: values, drops, the store, and a pass that is killed."""

from __future__ import annotations

import math
import shutil

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from prefopt.core.errors import PrefoptError
from prefopt.core.settings import parse_config
from prefopt.models.load import load_model, load_tokenizer
from prefopt.models.template import encode_answer, encode_pair
from prefopt.models.tiny import make_tokenizer
from prefopt.scoring.logprobs import completion_logps
from prefopt.scoring.store import ReferenceStore, row_key
from prefopt.stages.reference import reference as stage
from prefopt.stages.reference.reference import ADDS, KL_ADDS, STAGE, reference
from prefopt.stages.reference.settings import ReferenceConfig
from prefopt.tables.context import Context
from prefopt.tables.folder import StageFolder
from prefopt.tables.records import file_digest, make_table, rows_of


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    tokenizer = make_tokenizer(["what is one plus two? it is three. no idea"] * 9, vocab_size=320)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=64, initializer_range=0.2,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def pair(index: int, **more) -> dict:
    return {
        "id": f"r{index:02d}",
        "prompt_id": f"p{index}",
        "prompt": [{"role": "user", "content": f"what is {index}{' plus one' * (index % 4)}?"}],
        "chosen": [{"role": "assistant", "content": f"it is {index}" + " three" * (index % 3)}],
        "rejected": [{"role": "assistant", "content": "no idea"}],
        "source": ["book", "web"][index % 2],
        **more,
    }


ROWS = [pair(i) for i in range(11)]
LENGTH = 64


def config(**more) -> ReferenceConfig:
    return parse_config(ReferenceConfig, {"max_length": LENGTH, "batch_tokens": 200, **more}, "test")


def run(rows, model, folder=None, strict=False, **more):
    context = Context(model=model, folder=folder, strict=strict)
    return reference(make_table(rows), config(**more), context)


def test_values_are_those_of_the_plain_model(model):
    output = run(ROWS, model)
    policy, tokenizer = load_model(model), load_tokenizer(model)
    for row in rows_of(output.table):
        encoded = encode_pair(tokenizer, row, max_length=LENGTH)
        for side, answer in (("chosen", encoded.chosen_ids), ("rejected", encoded.rejected_ids)):
            ids = torch.tensor([encoded.prompt_ids + answer])
            with torch.no_grad():
                logps = policy(input_ids=ids).logits[0].log_softmax(-1)
            start = len(encoded.prompt_ids)
            plain = logps[start - 1 : -1].gather(1, ids[0, start:, None]).sum().item()
            assert row[f"ref_{side}_logps"] == pytest.approx(plain, abs=1e-5 * len(answer))
            assert row[f"{side}_tokens"] == len(answer)


def test_every_column_stays_and_the_order_too(model):
    output = run(ROWS, model)
    found = rows_of(output.table)
    assert [{k: v for k, v in row.items() if k not in ADDS} for row in found] == ROWS
    assert set(ADDS) < set(output.table.column_names)
    assert output.dropped == {}
    assert (output.quality["pairs"], output.quality["rows_in"], output.quality["truncated"]) == (11, 11, 0)
    total = sum(row["ref_chosen_logps"] for row in found)
    assert output.quality["mean_ref_chosen_logps"] == pytest.approx(total / 11)
    tokens = sum(row["chosen_tokens"] for row in found)
    assert output.quality["nats_per_token_chosen"] == pytest.approx(total / tokens)


@pytest.mark.parametrize("batch_tokens", [1, 70, 100_000])
def test_batches_do_not_matter(model, batch_tokens):
    ours, theirs = rows_of(run(ROWS, model).table), rows_of(run(ROWS, model, batch_tokens=batch_tokens).table)
    for one, two in zip(ours, theirs, strict=True):
        assert one["ref_chosen_logps"] == pytest.approx(two["ref_chosen_logps"], abs=1e-4)


def test_rows_are_dropped_with_a_count(model):
    long = pair(20, prompt=[{"role": "user", "content": "plus " * 99}])
    same = pair(21, chosen=[{"role": "assistant", "content": "no idea"}])
    output = run([ROWS[0], long, same, long | {"id": "x"}, ROWS[1]], model)
    assert output.dropped == {"prompt longer than max_length": 2, "identical after tokenization": 1}
    assert [row["id"] for row in rows_of(output.table)] == ["r00", "r01"]
    for bad, reason in [(long, "prompt longer than max_length"), (same, "identical after tokenization")]:
        with pytest.raises(PrefoptError, match=f"row '{bad['id']}': {reason}.*--strict"):
            run([ROWS[0], bad], model, strict=True)
        with pytest.raises(PrefoptError, match=f"no pair left \\(1 {reason}\\)"):
            run([bad], model)


def test_answers_that_differ_behind_the_cut_only_are_identical(model):
    head = "three " * 40
    row = pair(
        1,
        chosen=[{"role": "assistant", "content": head + "x"}],
        rejected=[{"role": "assistant", "content": head + "y"}],
    )
    assert run([ROWS[0], row], model, max_length=40).dropped == {"identical after tokenization": 1}


def test_messages_that_the_template_refuses_are_dropped(model, tmp_path):
    strict = shutil.copytree(model, tmp_path / "strict")
    tokenizer = load_tokenizer(strict)
    tokenizer.chat_template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        + tokenizer.chat_template
    )
    tokenizer.save_pretrained(strict)
    bad = pair(30, prompt=[{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}])
    assert run([ROWS[0], bad], strict).dropped == {"refused by the chat template": 1}


def test_long_answers_are_cut_and_flagged(model):
    long = pair(5, chosen=[{"role": "assistant", "content": "three " * 60}])
    output = run([ROWS[0], long], model)
    assert [row["truncated"] for row in rows_of(output.table)] == [False, True]
    assert output.quality["truncated"] == 1


def test_sequences_beyond_the_models_positions_are_an_error(model):
    long = pair(5, chosen=[{"role": "assistant", "content": "three " * 60}])
    with pytest.raises(PrefoptError, match=r"row 'r05': \d+ tokens, but the model has 64 positions"):
        run([long], model, max_length=500)


def test_text_rows(model):
    rows = [{"id": "a", "prompt": "one plus", "chosen": " two", "rejected": " three no", "gold": "2"}]
    (row,) = rows_of(run(rows, model).table)
    assert math.isfinite(row["ref_chosen_logps"])
    assert row["gold"] == "2"


def test_old_reference_columns_are_replaced(model):
    stale = [{**row, "ref_chosen_logps": 0.0, "truncated": True} for row in ROWS]
    assert rows_of(run(stale, model).table) == rows_of(run(ROWS, model).table)


def count_scored(monkeypatch) -> list[int]:
    from prefopt.scoring import logprobs

    counts: list[int] = []
    own = logprobs.score_cuts

    def counting(policy, sequences, *arguments, **more):
        counts.append(len(sequences))
        return own(policy, sequences, *arguments, **more)

    monkeypatch.setattr(logprobs, "score_cuts", counting)
    return counts


def test_a_store_is_reused_and_extended(model, tmp_path, monkeypatch):
    counts = count_scored(monkeypatch)
    store = str(tmp_path / "store")
    first = run(ROWS[:6], model, store=store)
    assert (first.quality["reused"], counts) == (0, [12])
    both = run(ROWS, model, store=store)
    assert (both.quality["reused"], counts) == (6, [12, 10])  # five new pairs, two answers each
    third = run(ROWS[::-1], model, store=store)
    assert (third.quality["reused"], counts) == (11, [12, 10])
    assert sorted(rows_of(third.table), key=lambda r: r["id"]) == rows_of(both.table)
    assert set(ReferenceStore.load(tmp_path / "store").rows) == {row_key(row) for row in ROWS}


def test_a_store_of_other_settings_is_refused(model, tmp_path):
    run(ROWS[:2], model, store=str(tmp_path))
    with pytest.raises(PrefoptError, match=r"another max_length \(64, now 32\)"):
        run(ROWS[:2], model, store=str(tmp_path), max_length=32)
    with pytest.raises(PrefoptError, match=r"another dtype \(float32, now bfloat16\)"):
        run(ROWS[:2], model, store=str(tmp_path), dtype="bfloat16")


def test_the_stage_keeps_its_store(model, tmp_path):
    folder = StageFolder(tmp_path / "04-reference")
    folder.begin("key")
    output = run(ROWS, model, folder)
    folder.finish(STAGE.name, output, {"key": "key"})
    store = ReferenceStore.load(folder.path / "store")
    assert store.key.digest == output.quality["store_key"]
    values = [{name: row[name] for name in ADDS} for row in rows_of(folder.table())]
    assert store.lookup(ROWS) == values


@pytest.mark.parametrize("store", [False, True])
def test_prefix_sums_are_those_of_the_first_shared_tokens(model, tmp_path, store):
    settings = {"store": str(tmp_path / "kept")} if store else {}
    if store:  # a store without prefixes is completed, what it holds stays
        run(ROWS[:5], model, **settings)
    output = run(ROWS, model, prefix_logps=True, **settings)
    policy, tokenizer = load_model(model), load_tokenizer(model)
    plain = rows_of(run(ROWS, model).table)
    for row, other in zip(rows_of(output.table), plain, strict=True):
        pair_ = encode_pair(tokenizer, row, max_length=LENGTH)
        cut = min(len(pair_.chosen_ids), len(pair_.rejected_ids))
        for side, ids in (("chosen", pair_.chosen_ids), ("rejected", pair_.rejected_ids)):
            by_hand = completion_logps(policy, [(pair_.prompt_ids, ids[:cut])]).item()
            assert row[f"ref_{side}_prefix_logps"] == pytest.approx(by_hand, abs=1e-4)
            assert row[f"ref_{side}_logps"] == pytest.approx(other[f"ref_{side}_logps"], abs=1e-4)
    if store:
        again = run(ROWS, model, prefix_logps=True, **settings)
        assert again.quality["reused"] == 11
        assert rows_of(again.table) == rows_of(output.table)
        assert run(ROWS, model, **settings).table.column_names == run(ROWS, model).table.column_names


def everything(path):
    return {
        str(file.relative_to(path)): file_digest(file)
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.name != "timings.parquet"
    }


@pytest.mark.parametrize("after", [0, 1, 2])
@pytest.mark.parametrize("external", [False, True])
def test_a_killed_pass_continues_with_the_same_bytes(model, tmp_path, monkeypatch, after, external):
    monkeypatch.setattr(stage, "PART_ROWS", 4)
    rows = [*ROWS[:5], pair(20, prompt=[{"role": "user", "content": "plus " * 99}]), *ROWS[5:]]

    def whole(name):
        folder = StageFolder(tmp_path / name / "04-reference")
        folder.begin("key")
        store = {"store": str(tmp_path / name / "kept")} if external else {}
        output = run(rows, model, folder, **store)
        folder.finish(STAGE.name, output, {"key": "key"})

    whole("calm")
    from prefopt.scoring import logprobs

    own, calls = logprobs.score_cuts, []

    def dying(*arguments, **more):
        if len(calls) == after:
            raise KeyboardInterrupt
        calls.append(1)
        return own(*arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(logprobs, "score_cuts", dying)
        with pytest.raises(KeyboardInterrupt):
            whole("killed")
    counts = count_scored(monkeypatch)
    whole("killed")
    assert len(counts) == 3 - after
    assert everything(tmp_path / "killed") == everything(tmp_path / "calm")


# ---- KTO's mismatched completions


def single(row: dict, side: str) -> dict:
    kept = {name: row[name] for name in ("prompt_id", "prompt", "source")}
    return {**kept, "id": f"{row['id']}-{side}", "completion": row[side], "label": side == "chosen"}


SINGLES = [single(row, side) for row in ROWS for side in ("chosen", "rejected")]


@pytest.mark.parametrize("rows", [ROWS, SINGLES], ids=["pairs", "unpaired"])
def test_mismatched_completions_are_of_other_prompts_and_have_their_log_prob(model, rows):
    found = rows_of(run(rows, model, mismatched=True).table)
    by_id = {row["id"]: row for row in rows}
    policy, tokenizer = load_model(model), load_tokenizer(model)
    for row in found:
        other = by_id[row["kl_id"]]
        assert other["prompt"] != row["prompt"]
        sides = [name for name in ("chosen", "rejected", "completion") if name in other]
        prompt = encode_answer(tokenizer, row, row[sides[0]], max_length=LENGTH).prompt_ids
        answers = [
            encode_answer(tokenizer, other, other[side], max_length=LENGTH).answer_ids for side in sides
        ]
        assert row["kl_ids"] in [answer[: LENGTH - len(prompt)] for answer in answers]
        by_hand = completion_logps(policy, [(prompt, row["kl_ids"])]).item()
        assert row["ref_kl_logps"] == pytest.approx(by_hand, abs=1e-4)
    assert len({row["kl_id"] for row in found}) > len(rows) / 2
    plain = rows_of(run(rows, model).table)
    assert [{k: v for k, v in row.items() if k not in KL_ADDS} for row in found] == plain


def test_the_draw_depends_on_content_and_seed_alone(model):
    def drawn(rows, seed=0):
        output = reference(make_table(rows), config(mismatched=True), Context(seed=seed, model=model))
        return {row["id"]: (row["kl_id"], tuple(row["kl_ids"])) for row in rows_of(output.table)}

    assert drawn(SINGLES) == drawn(SINGLES[::-1])
    assert drawn(SINGLES) != drawn(SINGLES, seed=1)


def test_rows_that_cannot_be_used_are_nobodys_mismatched_completion(model):
    long = pair(20, prompt=[{"role": "user", "content": "plus " * 99}])
    same = pair(21, chosen=[{"role": "assistant", "content": "no idea"}])
    found = rows_of(run([*ROWS, long, same], model, mismatched=True).table)
    assert {row["kl_id"] for row in found} <= {row["id"] for row in ROWS}
    with pytest.raises(PrefoptError, match="there is no second one"):
        run([ROWS[0]], model, mismatched=True)
    with pytest.raises(PrefoptError, match="no completion of another prompt"):
        run([ROWS[0], long], model, mismatched=True)


def test_where_all_rows_ask_one_prompt_the_mismatched_completion_is_of_another_row(model):
    rows = [ROWS[0], {**ROWS[0], "id": "x", "chosen": [{"role": "assistant", "content": "4"}]}]
    output = run(rows, model, mismatched=True)
    assert {row["id"]: row["kl_id"] for row in rows_of(output.table)} == {
        "x": ROWS[0]["id"],
        ROWS[0]["id"]: "x",
    }
    assert output.quality["kl_of_one_prompt"] is True


def test_a_store_keeps_mismatched_log_probs_for_the_same_draw(model, tmp_path):
    settings = {"store": str(tmp_path / "kept"), "mismatched": True}
    first = run(SINGLES, model, **settings)
    again = run(SINGLES, model, **settings)
    assert (first.quality["reused"], again.quality["reused"]) == (0, len(SINGLES))
    assert rows_of(first.table) == rows_of(again.table)
    more = single(pair(40), "chosen")  # changes the draw of its neighbour in the circle
    grown = run([*SINGLES, more], model, **settings)
    assert 0 < grown.quality["reused"] < len(SINGLES)
    fresh = rows_of(run([*SINGLES, more], model, mismatched=True).table)
    for one, two in zip(rows_of(grown.table), fresh, strict=True):
        assert (one["id"], one["kl_ids"]) == (two["id"], two["kl_ids"])
        assert one["ref_kl_logps"] == pytest.approx(two["ref_kl_logps"], abs=1e-4)


def test_unpaired_rows_have_one_log_prob(model):
    output = run(SINGLES, model)
    found = {row["id"]: row for row in rows_of(output.table)}
    for row in rows_of(run(ROWS, model).table):
        for side in ("chosen", "rejected"):
            one = found[f"{row['id']}-{side}"]
            assert one["ref_completion_logps"] == pytest.approx(row[f"ref_{side}_logps"], abs=1e-4)
            assert one["completion_tokens"] == row[f"{side}_tokens"]
    assert output.quality["rows"] == 22
    with pytest.raises(PrefoptError, match="prefix is shared by a pair"):
        run(SINGLES, model, prefix_logps=True)


@pytest.mark.parametrize("after", [1, 3])
def test_a_killed_pass_with_mismatched_completions_continues_with_the_same_bytes(
    model, tmp_path, monkeypatch, after
):
    from prefopt.scoring import logprobs

    monkeypatch.setattr(stage, "PART_ROWS", 8)

    def whole(name):
        folder = StageFolder(tmp_path / name / "04-reference")
        folder.begin("key")
        folder.finish(STAGE.name, run(SINGLES, model, folder, mismatched=True), {"key": "key"})

    whole("calm")
    own, calls = logprobs.score_cuts, []

    def dying(*arguments, **more):
        if len(calls) == after:
            raise KeyboardInterrupt
        calls.append(1)
        return own(*arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(logprobs, "score_cuts", dying)
        with pytest.raises(KeyboardInterrupt):
            whole("killed")
    whole("killed")
    assert everything(tmp_path / "killed") == everything(tmp_path / "calm")


def test_what_is_missing_is_told(model):
    with pytest.raises(PrefoptError, match="no model"):
        run(ROWS, None)
    with pytest.raises(PrefoptError, match="column 'rejected' is missing"):
        reference(make_table([{"id": "a", "prompt": "p", "chosen": "c"}]), config(), Context(model=model))
    with pytest.raises(PrefoptError, match="did you mean 'max_length'"):
        parse_config(ReferenceConfig, {"max_lenght": 5}, "test")


def test_weights_that_are_not_numbers_are_told(model, tmp_path):
    broken = shutil.copytree(model, tmp_path / "broken")
    policy = load_model(model)
    torch.nn.init.constant_(policy.model.norm.weight, float("nan"))
    policy.save_pretrained(broken)
    with pytest.raises(PrefoptError, match="logits are not finite in float32"):
        run(ROWS, broken)


@pytest.mark.parametrize("more", [{}, {"prefix_logps": True}, {"mismatched": True}], ids=str)
def test_shared_prefixes_give_the_same_numbers(model, more):
    padded = rows_of(run(ROWS, model, **more).table)
    packed = rows_of(run(ROWS, model, **more, shared_prefix=True, max_tokens_per_row=150).table)
    assert padded[0].keys() == packed[0].keys()
    for one, other in zip(padded, packed, strict=True):
        for name, value in one.items():
            is_logp = name.startswith("ref_")
            assert other[name] == (pytest.approx(value, abs=1e-4) if is_logp else value)


def test_a_packed_pass_is_the_same_however_it_is_cut(model, tmp_path, monkeypatch):
    whole = rows_of(run(ROWS, model, shared_prefix=True).table)
    monkeypatch.setattr(stage, "PART_ROWS", 4)
    again = rows_of(run(ROWS, model, shared_prefix=True).table)
    for one, other in zip(whole, again, strict=True):
        assert one["ref_chosen_logps"] == pytest.approx(other["ref_chosen_logps"], abs=1e-4)


@pytest.mark.parametrize("more", [{"shared_prefix": False}, {"batch_tokens": 200}])
def test_a_budget_of_rows_for_padded_batches_is_an_error(more):
    with pytest.raises(PrefoptError, match=r"max_tokens_per_row.*packed rows"):
        parse_config(ReferenceConfig, {"max_tokens_per_row": 100, **more}, "test")
