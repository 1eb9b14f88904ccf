"""The forms in which preference data comes: how each is recognised, and how it becomes ours.

`FORMATS` is the table: name -> kind, by which columns a file is recognised, and the function that turns one raw row into
one row of the kind. First match wins. A new format is one function and one entry; docs/formats.md shows a row of each.

    kind pairs        {prompt, chosen, rejected, ...}
    kind unpaired     {prompt, completion, label, ...}
    kind completions  {prompt, completions: [{completion, model, is_correct, score, ...}], ...}
    kind prompts      {prompt, gold, gold_completion, ...}

Columns that a format does not use travel along under their own name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from prefopt.stages.data.reading.forms import exports
from prefopt.stages.data.reading.forms.ask import constrained, prompt_name, questions
from prefopt.stages.data.reading.forms.compared import (
    alpaca_eval,
    arena,
    arena_kaggle,
    compared,
    halos,
    helpsteer,
    pandalm,
    pku,
    shp,
    two_answers,
    verdict_name,
    webgpt,
)
from prefopt.stages.data.reading.forms.pairs import (
    implicit,
    ms_swift,
    openai,
    preference,
    sides_of,
    simpo,
    step_dpo,
    transcripts,
)
from prefopt.stages.data.reading.forms.ranked import (
    distilabel,
    list_name,
    nectar,
    nemo,
    ranked,
    solutions,
    tournament,
)
from prefopt.stages.data.reading.forms.single import (
    helpsteer2,
    kto_tag,
    label_name,
    score_name,
    scored,
    unpaired,
)
from prefopt.tables.records import Row

KINDS = ("prompts", "completions", "pairs", "unpaired")
Sample = Mapping[str, Any]  # column -> its first value that is not null, over the first rows of a file


@dataclass(frozen=True)
class Format:
    """One form of a file. `fits(sample)` recognises it; `convert(row)` turns a row, raising `BadRow` for a bad one."""

    name: str
    kind: str
    fits: Callable[[Sample], bool]
    convert: Callable[[Row], Row]
    about: str


# ---- recognition


def has(*names: str) -> Callable[[Sample], bool]:
    """Whether a file has all these columns."""
    return lambda sample: all(name in sample for name in names)


def _asks(sample: Sample) -> bool:
    return prompt_name(sample) is not None


def _both(sample: Sample) -> bool:
    return {"chosen", "rejected"} <= set(sample)


def _sides(sample: Sample) -> bool:
    return _asks(sample) and (_both(sample) or sides_of(sample) is not None)


def _is_openai(sample: Sample) -> bool:
    return has("input", "preferred_output", "non_preferred_output")(sample) and isinstance(
        sample["input"], dict
    )


def _is_swift(sample: Sample) -> bool:
    talks = isinstance(sample.get("messages"), list) and "chosen" not in sample
    older = "response" in sample and "rejected_response" in sample and "chosen" not in sample
    return (talks and ("rejected_response" in sample or "rejected_messages" in sample)) or (
        older and _asks(sample)
    )


def _is_compared(sample: Sample) -> bool:
    sides = two_answers(sample)
    return sides is not None and verdict_name(sample, sides) is not None


def _is_helpsteer(sample: Sample) -> bool:
    two = {"response1", "response2"} <= set(sample) or {"response_1", "response_2"} <= set(sample)
    return two and bool({"overall_preference", "preference_strength"} & set(sample))


def _is_alpaca_eval(sample: Sample) -> bool:
    is_word = isinstance(sample.get("preference"), str) and sample["preference"].startswith("output")
    return has("output_1", "output_2", "preference")(sample) and not is_word


def _is_solutions(sample: Sample) -> bool:
    found = [v for v in sample.values() if isinstance(v, dict) and {"solution", "is_correct"} <= set(v)]
    return _asks(sample) and len(found) > 1


def _listed(name: str, *more: str) -> Callable[[Sample], bool]:
    return lambda s: list_name(s) == name and _asks(s) and has(*more)(s)


def _is_messages_with_rank(sample: Sample) -> bool:
    first = sample["completions"][0] if list_name(sample) == "completions" else None
    return isinstance(first, dict) and isinstance(first.get("completion"), list) and _asks(sample)


_TABLE = (
    # ---- pairs: two answers, told apart by their names
    Format("openai", "pairs", _is_openai, openai,
           "input {messages, tools}, preferred_output, non_preferred_output (OpenAI preference files)"),
    Format("ms_swift", "pairs", _is_swift, ms_swift,
           "messages that end with the chosen answer, rejected_response or rejected_messages (ms-swift)"),
    Format("step_dpo", "pairs", lambda s: _both(s) and has("initial_reason_steps")(s) and _asks(s), step_dpo,
           "chosen and rejected that go on from initial_reason_steps (Step-DPO)"),
    Format("simpo", "pairs", lambda s: _both(s) and has("all_generated_responses", "all_rm_scores")(s) and _asks(s), simpo,
           "chosen, rejected, all_generated_responses, all_rm_scores (SimPO on-policy data)"),
    # ---- pairs: two answers and a verdict
    Format("arena", "pairs", has("conversation_a", "conversation_b", "winner"), arena,
           "conversation_a, conversation_b, winner (Chatbot Arena); ties are dropped and counted"),
    Format("arena_kaggle", "pairs", has("prompt", "response_a", "response_b", "winner_model_a", "winner_model_b"), arena_kaggle,
           "prompt, response_a, response_b, winner_model_a, winner_model_b, winner_tie (Arena at Kaggle)"),
    Format("shp", "pairs", has("human_ref_A", "human_ref_B", "labels"), shp,
           "history, human_ref_A, human_ref_B, labels 1 or 0, score_A, score_B (SHP)"),
    Format("halos", "pairs", has("output_A", "output_B", "label"), halos,
           "prompt, output_A, output_B, label 1 or 0, reward_A, reward_B (HALOs)"),
    Format("webgpt", "pairs", has("answer_0", "answer_1", "score_0", "score_1"), webgpt,
           "question, answer_0, answer_1, score_0, score_1 (WebGPT comparisons)"),
    Format("pku", "pairs", has("response_0", "response_1", "better_response_id"), pku,
           "prompt, response_0, response_1, better_response_id (PKU-SafeRLHF)"),
    Format("helpsteer", "pairs", _is_helpsteer, helpsteer,
           "context or prompt, two responses, a strength from -3 to 3 (HelpSteer3, HelpSteer2 preference)"),
    Format("alpaca_eval", "pairs", _is_alpaca_eval, alpaca_eval,
           "output_1, output_2, preference from 1 to 2 (AlpacaEval annotations)"),
    Format("pandalm", "pairs", has("response1", "response2", "annotator1"), pandalm,
           "response1, response2, annotator1.. (PandaLM test set)"),
    # ---- exports of annotation tools
    Format("argilla", "pairs", exports.has_two, exports.argilla,
           "two answers and votes for one of them (Argilla, records or flat columns)"),
    Format("label_studio", "pairs", exports.is_pairwise, exports.label_studio,
           "data with two answers, annotations that select left or right (Label Studio)"),
    Format("argilla_ratings", "completions", exports.has_ratings, exports.argilla_ratings,
           "several answers with a rating question each (Argilla by distilabel)"),
    Format("argilla_rating", "completions", exports.has_rating, exports.argilla_rating,
           "one answer with ratings (Argilla)"),
    Format("argilla_label", "unpaired", exports.has_label, exports.argilla_label,
           "one answer called good or bad (Argilla)"),
    Format("label_studio_rating", "completions", exports.is_rated, exports.label_studio_rating,
           "data with one answer, annotations with a rating (Label Studio)"),
    Format("label_studio_label", "unpaired", exports.is_chosen, exports.label_studio_label,
           "data with one answer, annotations with a choice, good or bad (Label Studio)"),
    # ---- pairs of any names
    Format("transcripts", "pairs",
           lambda s: has("text", "score")(s) and isinstance(s["text"], list) and isinstance(s["score"], list), transcripts,
           "text: two dialogues, score: two numbers (HH-RLHF as published)"),
    Format("preference", "pairs", _sides, preference,
           "prompt (or question, instruction + input, conversations ...), chosen, rejected (or chosen_response, response_j ...): "
           "text, messages or ShareGPT"),
    Format("implicit", "pairs", _both, implicit,
           "chosen and rejected without a prompt: messages or transcripts that begin with it"),
    Format("compared", "pairs", lambda s: _asks(s) and _is_compared(s), compared,
           "two answers named alike (response_a, response_b) and a verdict that names one of them (winner: a)"),
    # ---- completions
    Format("nectar", "completions", lambda s: _listed("answers")(s), nectar,
           "prompt and answers: a list of {answer, model, rank} (Nectar)"),
    Format("nemo", "completions", _is_messages_with_rank, nemo,
           "context and completions: a list of {rank, completion: messages} (NeMo RL)"),
    Format("tournament", "completions", lambda s: "completions" in s and _asks(s), tournament,
           "prompt and completions: a list of {text, model, is_correct, score, rank} (also UltraFeedback)"),
    Format("distilabel", "completions", _listed("generations"), distilabel,
           "instruction, generations, ratings, generation_models (distilabel)"),
    Format("lists", "completions", lambda s: list_name(s) is not None and _asks(s), ranked,
           "prompt, responses, scores: lists side by side"),
    Format("solutions", "completions", _is_solutions, solutions,
           "question, ground_truth, and one column {is_correct, solution} per model (GSM8K example solutions)"),
    # ---- one answer
    Format("kto_tag", "unpaired", lambda s: "kto_tag" in s and "label" not in s and label_name(s) == "kto_tag", kto_tag,
           "instruction, output (or conversations), kto_tag (LLaMA-Factory)"),
    Format("unpaired", "unpaired", lambda s: _asks(s) and label_name(s) is not None, unpaired,
           "prompt and completion (or a conversation that ends with it), label: true where it is desired (KTO), or thumbs"),
    Format("helpsteer2", "completions", lambda s: has("prompt", "response", "helpfulness")(s), helpsteer2,
           "prompt, response, helpfulness, correctness, coherence ... (HelpSteer2)"),
    Format("scored", "completions", lambda s: _asks(s) and score_name(s) is not None, scored,
           "prompt and one response with a score, rating or reward"),
    # ---- prompts
    Format("ifeval", "prompts", lambda s: _asks(s) and has("instruction_id_list")(s), constrained,
           "prompt, instruction_id_list, kwargs: constraints that a program checks (IFEval)"),
    Format("prompts", "prompts", _asks, questions,
           "prompt, question, problem, instruction (+ input), messages or turns; answer or gold; a gold solution"),
)  # fmt: skip
FORMATS: dict[str, Format] = {row.name: row for row in _TABLE}
