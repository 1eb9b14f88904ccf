"""The column vocabulary: every column that a stage reads or adds, with its type, its maker and its meaning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Column:
    """One name of the vocabulary: how it is stored (`kind`), which stage makes it, what it means."""

    kind: str  # string, int, float, bool, strings, json (any JSON value, kept as text), content (text or messages)
    stage: str
    meaning: str


COLUMNS: dict[str, Column] = {
    "id": Column("string", "data", "unique name of the row"),
    "prompt_id": Column("string", "data", "name of the prompt; rows of one prompt share it"),
    "prompt": Column("content", "data", "what the model is asked: text or messages"),
    "split": Column("string", "data", "train or eval (held out, decided by a hash of the prompt)"),
    "gold": Column("string", "data", "the gold final answer"),
    "gold_completion": Column("string", "data", "a gold solution, never counted as a sample"),
    "tools": Column("json", "data", "tool definitions for the chat template"),
    "judgments": Column("json", "data", "recorded verdicts on the prompt's completions, as in the file"),
    "constraints": Column(
        "json", "data", "checkable constraints on the answer: [{id, kwargs}], the kinds of IFEval"
    ),
    "chat_template_kwargs": Column("json", "data", "extra arguments for the chat template"),
    "count_in_answer": Column(
        "string",
        "data",
        "which turns of an answer count in the loss: assistant (default), last, all (data.count)",
    ),
    "plain_text": Column(
        "bool", "data", "text on purpose, also for a model with a chat template (data.chat: false)"
    ),
    "completion": Column(
        "content", "sample", "the sampled answer, without template or EOS; unpaired data: text or messages"
    ),
    "label": Column("bool", "data", "unpaired data: the completion is desired"),
    "completion_index": Column("int", "sample", "which of the prompt's samples, from 0"),
    "model": Column("string", "sample", "who wrote the completion"),
    "finish_reason": Column("string", "sample", "stop (EOS) or length (cut at max_new_tokens)"),
    "completion_tokens": Column("int", "sample", "length of the completion in tokens, EOS included"),
    "seed": Column(
        "int", "sample", "seed of the batch (of the call, where a server wrote) that made the completion"
    ),
    "sampled_logps": Column(
        "float", "sample", "the sampler's own log-prob of the completion, sum over its tokens, nats"
    ),
    "answer": Column("string", "judge", "final answer extracted from the completion; null = unparsed"),
    "answer_class": Column("int", "judge", "class of equal answers within the prompt; -1 = unparsed"),
    "is_correct": Column("bool", "judge", "equal to the gold answer"),
    "score": Column("float", "judge", "scalar score of the completion"),
    "recorded_is_correct": Column("bool", "judge", "the file's own verdict, where the verifier decides"),
    "recorded_score": Column("float", "judge", "the file's own score, where the verifier decides"),
    "followed": Column(
        "json", "judge", "which constraints the answer keeps: {ids, strict, loose}, lists of equal length"
    ),
    "n": Column("int", "judge", "samples of the prompt"),
    "n_correct": Column("int", "judge", "P_c, right samples of the prompt"),
    "n_incorrect": Column("int", "judge", "P_e, wrong samples of the prompt, unparsed included"),
    "n_unparsed": Column("int", "judge", "samples without a readable final answer"),
    "n_distinct": Column("int", "judge", "distinct answer classes"),
    "answer_entropy": Column("float", "judge", "entropy of the answer classes, nats"),
    "majority_share": Column("float", "judge", "share of the largest answer class"),
    "chosen": Column("content", "rank", "the preferred answer"),
    "rejected": Column("content", "rank", "the other answer"),
    "chosen_id": Column("string", "rank", "row id of the chosen completion"),
    "rejected_id": Column("string", "rank", "row id of the rejected completion"),
    "score_chosen": Column("float", "rank", "score of the chosen answer"),
    "score_rejected": Column("float", "rank", "score of the rejected answer"),
    "margin": Column("float", "rank", "score_chosen - score_rejected"),
    "n_rejected_class": Column("int", "rank", "samples of the prompt in the rejected answer's class"),
    "n_pairs": Column("int", "rank", "pairs made from this prompt"),
    "ref_chosen_logps": Column(
        "float", "reference", "log ref(chosen | prompt), sum over answer tokens, nats"
    ),
    "ref_rejected_logps": Column("float", "reference", "log ref(rejected | prompt), nats"),
    "chosen_tokens": Column("int", "reference", "answer tokens of chosen, EOS included"),
    "rejected_tokens": Column("int", "reference", "answer tokens of rejected, EOS included"),
    "ref_completion_logps": Column("float", "reference", "unpaired data: log ref(completion | prompt), nats"),
    "truncated": Column("bool", "reference", "an answer was cut at max_length"),
    "ref_chosen_prefix_logps": Column(
        "float",
        "reference",
        "log ref of the first min(chosen, rejected) answer tokens of chosen, nats (LD-DPO)",
    ),
    "ref_rejected_prefix_logps": Column("float", "reference", "the same of rejected, nats (LD-DPO)"),
    "kl_id": Column("string", "reference", "row whose completion is this row's mismatched one (KTO)"),
    "kl_ids": Column("json", "reference", "token ids of the mismatched completion (KTO)"),
    "ref_kl_logps": Column("float", "reference", "log ref(mismatched completion | prompt), nats (KTO)"),
    "gap_sum": Column("float", "select", "ref_chosen_logps - ref_rejected_logps, nats"),
    "gap_mean": Column("float", "select", "difference of the per-token log-probs, nats per token"),
    "kept": Column("bool", "select", "used for training"),
    "weight": Column("float", "weight", "multiplies the pair's loss"),
    "kind": Column(
        "string", "evaluate", "sample (a completion of a test prompt), pair or unpaired (both held out)"
    ),
    "mode": Column("string", "evaluate", "sampled or greedy; null for pairs"),
    "chosen_logps": Column("float", "evaluate", "log policy(chosen | prompt), sum over answer tokens, nats"),
    "rejected_logps": Column("float", "evaluate", "log policy(rejected | prompt), nats"),
    "completion_logps": Column("float", "evaluate", "unpaired data: log policy(completion | prompt), nats"),
    "pair_correct": Column(
        "bool", "evaluate", "chosen ranks above rejected by evaluate.pair_metric; null = tie"
    ),
}


def arrow_type(kind: str, content_is_text: bool) -> pa.DataType:
    """How a kind of column is stored; `content` as text or as messages."""
    import pyarrow as pa

    message = pa.struct([("role", pa.string()), ("content", pa.string()), ("more", pa.string())])
    types = {
        "string": pa.string(),
        "json": pa.string(),
        "int": pa.int64(),
        "float": pa.float64(),
        "bool": pa.bool_(),
        "strings": pa.list_(pa.string()),
        "content": pa.string() if content_is_text else pa.list_(message),
    }
    return types[kind]
