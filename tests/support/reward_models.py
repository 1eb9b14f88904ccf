"""Small models and pairs for tests of reward models and of judges that read one."""

import random

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from prefopt.models.tiny import make_tokenizer
from prefopt.tables.records import make_table

WORDS = ["apple", "river", "stone", "cloud", "green", "happy", "small", "train", "paper", "music"]


def good_and_bad(n, seed=0):
    """n pairs; the chosen answer ends with "good", the rejected one with "bad"."""
    rng = random.Random(seed)
    rows = []
    for k in range(n):
        first, second = (" ".join(rng.sample(WORDS, 2)) for _ in range(2))
        prompt = f"{rng.choice(WORDS)} {k}"
        rows.append({"id": f"r{k}", "prompt_id": f"p{k}", "prompt": prompt,
                     "chosen": f"{first} good", "rejected": f"{second} bad"})  # fmt: skip
    return rows


def small_base(folder, *, hidden=48, seed=0):
    """A random causal model of two layers with a ChatML tokenizer, as a directory."""
    texts = [f"{r['prompt']} {r['chosen']} {r['rejected']}" for r in good_and_bad(50)]
    texts += ["user assistant system", "Prompt: Answer A: Answer B: Is answer A better?"]
    tokenizer = make_tokenizer(texts * 3, 400)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=2048, tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, bos_token_id=None,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def pairs_table(n, **columns):
    """The pairs as a table, with further columns (name -> list of n values)."""
    rows = good_and_bad(n)
    for name, values in columns.items():
        for row, value in zip(rows, values, strict=True):
            row[name] = value
    return make_table(rows)
