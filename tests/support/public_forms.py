"""A row of every public form, written for these tests after the published descriptions, and what it is read as.

docs/formats.md is made of this table by tools/formats_docs.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Row = dict[str, Any]


def U(text: Any) -> Row:
    return {"role": "user", "content": text}


def A(text: Any, **more: Any) -> Row:
    return {"role": "assistant", "content": text, **more}


def S(text: str) -> Row:
    return {"role": "system", "content": text}


def H(text: str) -> Row:
    return {"from": "human", "value": text}


def G(text: str) -> Row:
    return {"from": "gpt", "value": text}


ASK, GOOD, BAD = "Which planet has the most moons?", "Saturn, with more than 140.", "Jupiter, I think."
DIALOG = f"\n\nHuman: {ASK}\n\nAssistant:"
TOOL = {
    "type": "function",
    "function": {"name": "count_moons", "parameters": {"type": "object", "properties": {}}},
}
CALL = {"type": "function", "function": {"name": "count_moons", "arguments": {"planet": "Saturn"}}}


@dataclass(frozen=True)
class Sample:
    """whose: who publishes such files. source: where they say so. form: the row of the table of formats. want: columns of
    the (first) row that comes out; of completions, of every one: `completion`, `score`, ..."""

    whose: str
    form: str
    source: str
    row: Row
    want: Row | list[Row]
    notes: str = field(default="")


TEXT = {"prompt": ASK, "chosen": GOOD, "rejected": BAD}
TALK = {"prompt": [U(ASK)], "chosen": [A(GOOD)], "rejected": [A(BAD)]}
TWO = [{"completion": GOOD, "score": 5.0}, {"completion": BAD, "score": 2.0}]
LF = "https://github.com/hiyouga/LLaMA-Factory/blob/main/data/README.md"
AXOLOTL = "https://docs.axolotl.ai/docs/rlhf.html"
SWIFT = "https://swift.readthedocs.io/en/latest/Customization/Custom-dataset.html"
TRL = "https://huggingface.co/docs/trl/dataset_formats"
HUB = "https://huggingface.co/datasets/"
ARGILLA = "https://docs.argilla.io/latest/how_to_guides/import_export/"
STUDIO = "https://labelstud.io/guide/export"

SAMPLES = (
    # ---- pairs
    Sample("TRL, plain", "preference", TRL, dict(TEXT), TEXT),
    Sample("TRL, conversational, with tools", "preference", TRL,
           {**TALK, "tools": [TOOL]}, {**TALK, "tools": [TOOL]}),
    Sample("TRL, implicit prompt, conversational", "implicit", TRL,
           {"chosen": [U(ASK), A(GOOD)], "rejected": [U(ASK), A(BAD)]}, TALK),
    Sample("HH-RLHF", "implicit", HUB + "Anthropic/hh-rlhf",
           {"chosen": f"{DIALOG} {GOOD}", "rejected": f"{DIALOG} {BAD}"},
           {"prompt": DIALOG, "chosen": f" {GOOD}", "rejected": f" {BAD}"}),
    Sample("HH-RLHF, scored transcripts", "transcripts", HUB + "Anthropic/hh-rlhf",
           {"text": [f"{DIALOG} {BAD}", f"{DIALOG} {GOOD}"], "score": [0.0, 1.0]},
           {"prompt": DIALOG, "chosen": f" {GOOD}", "score_chosen": 1.0, "score_rejected": 0.0}),
    Sample("LLaMA-Factory, alpaca ranking", "preference", LF,
           {"instruction": ASK, "input": "Answer briefly.", "chosen": GOOD, "rejected": BAD, "history": [["Hi.", "Hello."]]},
           {**TALK, "prompt": [U("Hi."), A("Hello."), U(f"{ASK}\n\nAnswer briefly.")]}),
    Sample("LLaMA-Factory, sharegpt ranking", "preference", LF,
           {"conversations": [H(ASK)], "chosen": G(GOOD), "rejected": G(BAD)}, TALK),
    Sample("axolotl, chat_template.default", "preference", AXOLOTL,
           {"messages": [U(ASK)], "chosen": A(GOOD), "rejected": A(BAD)}, TALK),
    Sample("axolotl, chatml.intel (Intel Orca pairs)", "preference", HUB + "Intel/orca_dpo_pairs",
           {"system": "Be exact.", "question": ASK, "chosen": GOOD, "rejected": BAD},
           {**TALK, "prompt": [S("Be exact."), U(ASK)]}),
    Sample("axolotl, chatml.icr (distilabel Orca pairs)", "preference", HUB + "argilla/distilabel-intel-orca-dpo-pairs",
           {"system": "", "input": ASK, "chosen": GOOD, "rejected": BAD, "rating": [9.0, 4.0], "status": "unchanged"},
           {**TALK, "rating": [9.0, 4.0]}),
    Sample("axolotl, chatml.argilla; argilla's first sets", "preference", AXOLOTL,
           {"instruction": ASK, "chosen_response": GOOD, "rejected_response": BAD, "chosen_avg_rating": 4.5, "rejected_avg_rating": 2.0},
           {**TEXT, "score_chosen": 4.5, "score_rejected": 2.0, "margin": 2.5}),
    Sample("ms-swift, rejected_response", "ms_swift", SWIFT,
           {"messages": [U(ASK), A(GOOD)], "rejected_response": BAD}, TALK),
    Sample("ms-swift, rejected_messages", "ms_swift", SWIFT,
           {"messages": [U(ASK), A(GOOD)], "rejected_messages": [U(ASK), A(BAD)]}, TALK),
    Sample("OpenAI preference files", "openai", "https://platform.openai.com/docs/guides/direct-preference-optimization",
           {"input": {"messages": [U(ASK)], "tools": [TOOL], "parallel_tool_calls": True},
            "preferred_output": [A(GOOD)], "non_preferred_output": [A(BAD)]}, {**TALK, "tools": [TOOL]}),
    Sample("UltraFeedback binarized", "preference", HUB + "HuggingFaceH4/ultrafeedback_binarized",
           {"prompt": ASK, "chosen": [U(ASK), A(GOOD)], "rejected": [U(ASK), A(BAD)], "score_chosen": 8.5, "score_rejected": 6.0},
           {**TALK, "score_chosen": 8.5, "score_rejected": 6.0}),
    Sample("UltraFeedback binarized, cleaned by argilla", "preference", HUB + "argilla/ultrafeedback-binarized-preferences-cleaned",
           {"prompt": ASK, "chosen": [U(ASK), A(GOOD)], "chosen-rating": 5.0, "chosen-model": "m1", "rejected": [U(ASK), A(BAD)],
            "rejected-rating": 3.0, "rejected-model": "m2"},
           {**TALK, "score_chosen": 5.0, "score_rejected": 3.0, "chosen-model": "m1"}),
    Sample("Tulu 3", "preference", HUB + "allenai/llama-3.1-tulu-3-8b-preference-mixture",
           {"id": "t-1", "source": "wildchat", "prompt": ASK, "chosen": [U(ASK), A(GOOD)], "rejected": [U(ASK), A(BAD)]}, TALK),
    Sample("Skywork", "implicit", HUB + "Skywork/Skywork-Reward-Preference-80K-v0.2",
           {"chosen": [U(ASK), A(GOOD)], "rejected": [U(ASK), A(BAD)], "source": "offset_bias"}, TALK),
    Sample("Capybara", "preference", HUB + "argilla/distilabel-capybara-dpo-7k-binarized",
           {"conversation": [{"input": ASK, "output": GOOD}], "prompt": ASK, "chosen": [U("Hi."), A("Hello."), U(ASK), A(GOOD)],
            "rejected": [U("Hi."), A("Hello."), U(ASK), A(BAD)], "rating_chosen": 5, "rating_rejected": 4.5},
           {**TALK, "prompt": [U("Hi."), A("Hello."), U(ASK)], "score_chosen": 5.0, "score_rejected": 4.5}),
    Sample("Magpie", "preference", HUB + "Magpie-Align/Magpie-Llama-3.1-Pro-DPO-100K-v0.1",
           {"uuid": "u-1", "instruction": ASK, "chosen": [U(ASK), A(GOOD)], "rejected": [U(ASK), A(BAD)]}, TALK),
    Sample("SimPO, on-policy", "simpo", "https://github.com/princeton-nlp/SimPO/tree/main/on_policy_data_gen",
           {"prompt": ASK, "all_generated_responses": [BAD, GOOD], "all_rm_scores": [0.1, 0.9], "chosen": [U(ASK), A(GOOD)],
            "rejected": [U(ASK), A(BAD)]}, {**TALK, "score_chosen": 0.9, "score_rejected": 0.1}),
    Sample("Step-DPO", "step_dpo", HUB + "xinlai/Math-Step-DPO-10K",
           {"prompt": "2+3*4?", "initial_reason_steps": "Step 1: 3*4=12.\nStep 2:", "chosen": " 2+12=14.", "rejected": " 5*4=20.",
            "answer": "14"},
           {"prompt": "2+3*4?", "chosen": "Step 1: 3*4=12.\nStep 2: 2+12=14.", "rejected": "Step 1: 3*4=12.\nStep 2: 5*4=20.", "gold": "14"}),
    Sample("NeMo Aligner", "preference", "https://github.com/NVIDIA/NeMo-Aligner",
           {"prompt": ASK, "chosen_response": GOOD, "rejected_response": BAD, "chosen_reward": 4.0, "rejected_reward": 1.0},
           {**TEXT, "score_chosen": 4.0, "score_rejected": 1.0}),
    Sample("Stack Exchange paired", "preference", HUB + "lvwerra/stack-exchange-paired",
           {"question": ASK, "response_j": GOOD, "response_k": BAD, "qid": 7}, TEXT),
    Sample("agents: calls of tools within answers", "preference", TRL,
           {"prompt": [U(ASK)], "tools": [TOOL], "rejected": [A(BAD)],
            "chosen": [A(None, tool_calls=[{**CALL, "function": {"name": "count_moons", "arguments": '{"planet": "Saturn"}'}}]),
                       {"role": "tool", "name": "count_moons", "content": "146"}, A(GOOD)]},
           {"chosen": [A(None, tool_calls=[CALL]), {"role": "tool", "content": "146", "name": "count_moons"}, A(GOOD)]},
           "Arguments that are JSON text become objects; the tool's words do not count in the loss."),
    # ---- two answers and a verdict
    Sample("Chatbot Arena", "arena", HUB + "lmarena-ai/arena-human-preference-55k",
           {"model_a": "m1", "model_b": "m2", "winner": "model_b", "conversation_a": [U(ASK), A(BAD)], "conversation_b": [U(ASK), A(GOOD)]},
           {**TALK, "chosen_model": "m2", "rejected_model": "m1"}, "Ties (`tie`, `tie (bothbad)`) are dropped and counted."),
    Sample("Arena at Kaggle", "arena_kaggle", "https://www.kaggle.com/competitions/lmsys-chatbot-arena/data",
           {"model_a": "m1", "model_b": "m2", "prompt": f'["{ASK}"]', "response_a": f'["{GOOD}"]', "response_b": f'["{BAD}"]',
            "winner_model_a": 1, "winner_model_b": 0, "winner_tie": 0}, {**TALK, "chosen_model": "m1"}),
    Sample("two responses and a winner, as arenas export them", "compared", HUB + "lmarena-ai/arena-human-preference-100k",
           {"prompt": ASK, "response_a": BAD, "response_b": GOOD, "model_a": "m1", "model_b": "m2", "winner": "b"},
           {**TEXT, "chosen_model": "m2"}),
    Sample("HelpSteer3", "helpsteer", HUB + "nvidia/HelpSteer3",
           {"domain": "general", "context": [U(ASK)], "response1": BAD, "response2": GOOD, "overall_preference": 3},
           {**TALK, "score_chosen": 1.0, "score_rejected": 0.0}, "Scores are the strength, from 0 to 1."),
    Sample("HelpSteer2 preference", "helpsteer", HUB + "nvidia/HelpSteer2",
           {"prompt": ASK, "response_1": GOOD, "response_2": BAD, "preference_strength": -3}, {**TEXT, "score_chosen": 1.0}),
    Sample("SHP", "shp", HUB + "stanfordnlp/SHP",
           {"post_id": "p1", "history": ASK, "human_ref_A": BAD, "human_ref_B": GOOD, "labels": 0, "score_A": 3, "score_B": 41},
           {**TEXT, "score_chosen": 41.0, "score_rejected": 3.0}),
    Sample("WebGPT comparisons", "webgpt", HUB + "openai/webgpt_comparisons",
           {"question": {"dataset": "eli5", "full_text": ASK}, "answer_0": GOOD, "answer_1": BAD, "score_0": 0.5, "score_1": -0.5},
           {**TEXT, "score_chosen": 0.5, "score_rejected": -0.5}),
    Sample("PKU-SafeRLHF", "pku", HUB + "PKU-Alignment/PKU-SafeRLHF",
           {"prompt": ASK, "response_0": BAD, "response_1": GOOD, "better_response_id": 1, "safer_response_id": 0,
            "is_response_0_safe": True, "is_response_1_safe": True}, {**TEXT, "safer_response_id": 0}),
    Sample("HALOs, pairs", "halos", "https://github.com/ContextualAI/HALOs",
           {"prompt_id": "1", "prompt": [U(ASK)], "output_A": [A(BAD)], "output_B": [A(GOOD)], "label": 0, "reward_A": 0.1,
            "reward_B": 1.5, "type": "pairwise_feedback"}, {**TALK, "score_chosen": 1.5, "score_rejected": 0.1}),
    Sample("AlpacaEval annotations", "alpaca_eval", "https://github.com/tatsu-lab/alpaca_eval",
           {"instruction": ASK, "output_1": BAD, "output_2": GOOD, "generator_1": "m1", "generator_2": "m2", "preference": 1.75},
           {**TEXT, "score_chosen": 0.75, "chosen_model": "m2"}),
    Sample("PandaLM test set", "pandalm", "https://github.com/WeOpenML/PandaLM",
           {"instruction": ASK, "input": "", "response1": GOOD, "response2": BAD, "annotator1": 1, "annotator2": 1, "annotator3": 2}, TEXT),
    # ---- annotation tools
    Sample("Argilla, records", "argilla", ARGILLA,
           {"id": "r1", "fields": {"prompt": ASK, "response1": BAD, "response2": GOOD}, "metadata": {}, "suggestions": {},
            "responses": {"preference": [{"value": "response2", "user_id": "a"}, {"value": "response2", "user_id": "b"}]}}, TEXT),
    Sample("Argilla, flat columns", "argilla", ARGILLA,
           {"prompt": ASK, "response1": GOOD, "response2": BAD, "preference.responses": ["response1"], "preference.responses.users": ["a"]},
           TEXT),
    Sample("Argilla, a rating per answer (distilabel)", "argilla_ratings", ARGILLA,
           {"fields": {"instruction": ASK, "generations-0": GOOD, "generations-1": BAD},
            "responses": {"generations-0-rating": [{"value": 5}], "generations-1-rating": [{"value": 2}]}}, TWO),
    Sample("Argilla, ratings of one answer", "argilla_rating", ARGILLA,
           {"prompt": ASK, "response": GOOD, "quality.responses": [5, 4], "quality.responses.users": ["a", "b"]},
           [{"completion": GOOD, "score": 4.5}]),
    Sample("Argilla, labels of one answer", "argilla_label", ARGILLA,
           {"prompt": ASK, "response": BAD, "verdict.responses": ["bad", "bad", "good"]},
           {"prompt": ASK, "completion": BAD, "label": False}),
    Sample("Label Studio, pairwise", "label_studio", STUDIO,
           {"id": 4, "data": {"prompt": ASK, "answer1": BAD, "answer2": GOOD},
            "annotations": [{"result": [{"type": "pairwise", "from_name": "pw", "value": {"selected": "right"}}]}]}, TEXT),
    Sample("Label Studio, ratings", "label_studio_rating", STUDIO,
           {"id": 5, "data": {"prompt": ASK, "response": GOOD}, "annotations": [{"result": [{"type": "rating", "value": {"rating": 4}}]}]},
           [{"completion": GOOD, "score": 4.0}]),
    Sample("Label Studio, choices", "label_studio_label", STUDIO,
           {"id": 6, "data": {"prompt": ASK, "response": BAD}, "annotations": [{"result": [{"type": "choices", "value": {"choices": ["Bad"]}}]}]},
           {"prompt": ASK, "completion": BAD, "label": False}),
    # ---- completions with scores, ranks or marks
    Sample("UltraFeedback", "tournament", HUB + "openbmb/UltraFeedback",
           {"instruction": ASK, "models": ["m1", "m2"], "completions": [
               {"model": "m1", "response": GOOD, "overall_score": 5.0}, {"model": "m2", "response": BAD, "overall_score": 2.0}]},
           [{**TWO[0], "model": "m1"}, {**TWO[1], "model": "m2"}]),
    Sample("Nectar", "nectar", HUB + "berkeley-nest/Nectar",
           {"prompt": f"{DIALOG} ", "answers": [{"answer": GOOD, "model": "m1", "rank": 1.0}, {"answer": BAD, "model": "m2", "rank": 2.0}]},
           [{"completion": GOOD, "score": -1.0, "model": "m1"}, {"completion": BAD, "score": -2.0}]),
    Sample("NeMo RL", "nemo", "https://github.com/NVIDIA-NeMo/RL/blob/main/docs/guides/dpo.md",
           {"context": [U(ASK)], "completions": [{"rank": 0, "completion": [A(GOOD)]}, {"rank": 1, "completion": [A(BAD)]}]},
           [{"completion": GOOD, "score": 0.0}, {"completion": BAD, "score": -1.0}]),
    Sample("distilabel", "distilabel", "https://distilabel.argilla.io/latest/",
           {"instruction": ASK, "generations": [GOOD, BAD], "generation_models": ["m1", "m2"], "ratings": [5, 2]},
           [{**TWO[0], "model": "m1"}, TWO[1]]),
    Sample("lists side by side", "lists", "https://github.com/princeton-nlp/SimPO/tree/main/on_policy_data_gen",
           {"prompt": ASK, "responses": [GOOD, BAD], "scores": [5.0, 2.0]}, TWO),
    Sample("GSM8K example solutions", "solutions", "https://github.com/openai/grade-school-math",
           {"question": "2+2?", "ground_truth": "Q: 2+2?\nA: 4", "6B": {"solution": "5", "is_correct": False},
            "175B": {"solution": "4", "is_correct": True}},
           [{"completion": "5", "model": "6B", "is_correct": False}, {"completion": "4", "is_correct": True}]),
    Sample("HelpSteer2", "helpsteer2", HUB + "nvidia/HelpSteer2",
           {"prompt": ASK, "response": GOOD, "helpfulness": 4, "correctness": 4, "coherence": 4, "complexity": 1, "verbosity": 1},
           [{"completion": GOOD, "score": 4.0}]),
    Sample("one answer with a score", "scored", "https://huggingface.co/docs/trl/reward_trainer",
           {"prompt": ASK, "response": GOOD, "score": 0.93, "model": "m1"}, [{"completion": GOOD, "score": 0.93, "model": "m1"}]),
    # ---- one answer with a label
    Sample("TRL, unpaired (KTO)", "unpaired", TRL,
           {"prompt": [U(ASK)], "completion": [A(GOOD)], "label": True}, {"prompt": [U(ASK)], "completion": [A(GOOD)], "label": True}),
    Sample("ms-swift, KTO", "unpaired", SWIFT,
           {"messages": [U(ASK), A(BAD)], "label": False}, {"prompt": [U(ASK)], "completion": [A(BAD)], "label": False}),
    Sample("LLaMA-Factory, KTO, alpaca", "kto_tag", LF,
           {"instruction": ASK, "input": "", "output": GOOD, "kto_tag": True}, {"prompt": ASK, "completion": GOOD, "label": True}),
    Sample("LLaMA-Factory, KTO, sharegpt", "kto_tag", LF,
           {"conversations": [H(ASK), G(BAD)], "kto_tag": False}, {"prompt": [U(ASK)], "completion": [A(BAD)], "label": False}),
    Sample("HALOs, binary", "unpaired", "https://github.com/ContextualAI/HALOs",
           {"prompt": [U(ASK)], "output": [A(GOOD)], "label": 1, "reward": 0.9, "type": "binary_feedback"},
           {"completion": [A(GOOD)], "label": True}),
    Sample("thumbs up and down", "unpaired", "https://langfuse.com/docs/observability/features/user-feedback",
           {"prompt": ASK, "response": BAD, "feedback": "thumbs_down"}, {"prompt": ASK, "completion": BAD, "label": False}),
    # ---- prompts
    Sample("prompts with a gold answer", "prompts", HUB + "openai/gsm8k",
           {"question": "2+2?", "answer": "Two and two make four.\n#### 4"}, {"prompt": "2+2?", "gold": "4"}),
    Sample("verl", "prompts", "https://verl.readthedocs.io/en/latest/preparation/prepare_data.html",
           {"data_source": "gsm8k", "prompt": [U("2+2?")], "ability": "math", "reward_model": {"style": "rule", "ground_truth": "4"}},
           {"prompt": [U("2+2?")], "gold": "4"}),
    Sample("IFEval", "ifeval", HUB + "google/IFEval",
           {"key": 1, "prompt": ASK, "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{"num_words": None}]},
           {"prompt": ASK, "constraints": [{"id": "punctuation:no_comma", "kwargs": {}}]}),
)  # fmt: skip
