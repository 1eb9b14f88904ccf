"""Rebuild everything that the quickstart ships: the base model and the prompt files.

    python -m prefopt.recipes.quickstart.build [--output DIR] [--steps N] [--seed N] [--threads N]

writes `base/` (an ordinary Hugging Face model directory) and train.jsonl, tuning.jsonl, test.jsonl. Without
`--output` the shipped files are replaced. The same seed, steps and thread count on the same machine and torch
version give the same bytes. Takes a few minutes on two cores.

The base model learns from a corpus of writers of mixed quality (writers.py) and from prompts that appear in none
of the three prompt files, so that it has both good and bad ways to answer, and has memorised nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefopt.recipes.quickstart import task, writers

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

SEED = 0
STEPS = 1600
BATCH_ROWS = 64
MICRO_ROWS = 16  # a step runs in pieces of similar length: the same gradient, less padding
PEAK_LR = 3e-3
WARMUP_STEPS = 100
WEIGHT_DECAY = 0.01
GRADIENT_NORM = 1.0
THREADS = 2
PROMPT_COUNTS = {"train": 700, "tuning": 400, "test": 1200}
MAX_LENGTH = 96  # tokens; the longest prompt and completion together stay below (a test proves it)

SPECIAL_TOKENS = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
CHARACTERS = "\n +-*=;:0123456789AQ"
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ 'Q:' + message['content'] + '\n' }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token }}"
    "{% else %}{{ raise_exception('the quickstart template knows the roles user and assistant') }}"
    "{% endif %}{% endfor %}"
)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token per character, BOS before plain text, and the chat template."""
    from tokenizers import Tokenizer, decoders, models, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: index for index, token in enumerate([*SPECIAL_TOKENS.values(), *CHARACTERS])}
    # Byte-pair encoding without a single merge is a character tokenizer.
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token=SPECIAL_TOKENS["unk_token"]))
    tokenizer.decoder = decoders.Fuse()
    bos = SPECIAL_TOKENS["bos_token"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, vocabulary[bos])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        **SPECIAL_TOKENS,
        chat_template=CHAT_TEMPLATE,
        model_max_length=MAX_LENGTH,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def make_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """A Llama of 4 layers and width 128 (0.8 M parameters), initialised from `seed`; global RNG untouched."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=344,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=MAX_LENGTH,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def encode_row(tokenizer: PreTrainedTokenizerFast, expression: str, completion: str) -> tuple[list[int], int]:
    """Token ids of one conversation as the chat template renders it, and how many of them are prompt."""
    user = [{"role": "user", "content": expression}]
    answered = [*user, {"role": "assistant", "content": completion}]
    prompt = tokenizer.apply_chat_template(user, tokenize=False, add_generation_prompt=True)
    text = tokenizer.apply_chat_template(answered, tokenize=False)
    prompt_ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    return tokenizer(text, add_special_tokens=False)["input_ids"], len(prompt_ids)


def make_corpus(tokenizer: PreTrainedTokenizerFast, rows: int, seed: int) -> list[tuple[list[int], int]]:
    """`rows` encoded conversations by writers drawn at random, on prompts of the corpus split."""
    rng = random.Random(f"writers:{seed}")
    stream = task.chains("corpus", seed)
    corpus = []
    for _ in range(rows):
        chain = next(stream)
        corpus.append(encode_row(tokenizer, chain.expression, writers.write(chain, rng)[1]))
    return corpus


def collate(rows: list[tuple[list[int], int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded input ids and labels [B, T]; labels are -100 on prompt and padding."""
    import torch

    width = max(len(ids) for ids, _ in rows)
    inputs = [ids + [pad] * (width - len(ids)) for ids, _ in rows]
    labels = [[-100] * prompt + ids[prompt:] + [-100] * (width - len(ids)) for ids, prompt in rows]
    return torch.tensor(inputs), torch.tensor(labels)


def learning_rate(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine to zero."""
    warmup = min(WARMUP_STEPS, max(1, steps // 10))
    if step < warmup:
        return PEAK_LR * (step + 1) / warmup
    return PEAK_LR * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def step_loss(model: LlamaForCausalLM, rows: list[tuple[list[int], int]], pad: int) -> float:
    """Adds the gradient of the mean loss of `rows` over completion tokens; returns it in nats per token."""
    from torch.nn.functional import cross_entropy

    tokens = sum(len(ids) - prompt for ids, prompt in rows)
    by_length = sorted(rows, key=lambda row: len(row[0]))
    total = 0.0
    for start in range(0, len(rows), MICRO_ROWS):
        inputs, labels = collate(by_length[start : start + MICRO_ROWS], pad)
        # Right padding under a causal mask: no completion token ever sees padding, so no mask is needed.
        logits = model(input_ids=inputs, use_cache=False).logits[:, :-1].flatten(0, 1)
        loss = cross_entropy(logits, labels[:, 1:].flatten(), ignore_index=-100, reduction="sum") / tokens
        loss.backward()
        total += loss.item()
    return total


def train(model: LlamaForCausalLM, corpus: list[tuple[list[int], int]], steps: int, pad: int) -> list[float]:
    """Next-token training on the completions, in place; returns the loss per step in nats per token."""
    import torch

    optimizer = torch.optim.AdamW(
        model.parameters(), lr=PEAK_LR, betas=(0.9, 0.98), weight_decay=WEIGHT_DECAY
    )
    model.train()
    losses: list[float] = []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps)
        optimizer.zero_grad()
        losses.append(step_loss(model, corpus[step * BATCH_ROWS : (step + 1) * BATCH_ROWS], pad))
        torch.nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_NORM)
        optimizer.step()
        if (step + 1) % 100 == 0:
            print(f"step {step + 1}/{steps}  loss {sum(losses[-100:]) / 100:.4f} nats/token", flush=True)
    model.eval()
    return losses


def save_base(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Model, generation config and tokenizer as an ordinary Hugging Face directory."""
    from transformers import GenerationConfig

    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=True,
        temperature=1.0,
        max_new_tokens=64,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_prompts(folder: Path, seed: int) -> None:
    """The three prompt files, one JSON object per line."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in PROMPT_COUNTS.items():
        lines = [json.dumps(row) + "\n" for row in task.prompts(split, count, seed)]
        (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")


def build(output: Path, steps: int = STEPS, seed: int = SEED, threads: int = THREADS) -> list[float]:
    """Write the prompt files and the trained base model under `output`; returns the training losses."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        tokenizer = make_tokenizer()
        model = make_model(tokenizer, seed)
        corpus = make_corpus(tokenizer, steps * BATCH_ROWS, seed)
        losses = train(model, corpus, steps, pad=tokenizer.pad_token_id)
    finally:
        torch.set_num_threads(before)
    write_prompts(output, seed)
    save_base(model, tokenizer, output / "base")
    return losses


def main(arguments: list[str] | None = None) -> None:
    """The command line of `python -m prefopt.recipes.quickstart.build`."""
    parser = argparse.ArgumentParser(
        prog="python -m prefopt.recipes.quickstart.build", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).parent, help="folder to write (default: the package)"
    )
    parser.add_argument("--steps", type=int, default=STEPS, help="optimizer steps of the base model")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument(
        "--threads", type=int, default=THREADS, help="CPU threads; part of what fixes the bytes"
    )
    options: Any = parser.parse_args(arguments)
    build(options.output, options.steps, options.seed, options.threads)
    print(f"wrote {options.output}")


if __name__ == "__main__":
    main()
