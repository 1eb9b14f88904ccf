"""Answer tokens that do not count: seen as context, never summed, whatever the way of computing."""

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from prefopt.models.marks import count_of, marked
from prefopt.scoring.logprobs import check_model, completion_logps, make_batch, score_cuts, token_logps
from prefopt.scoring.packing import pack_sequences
from prefopt.scoring.shared import check_sharing, packed_token_logps
from prefopt.training.collate import Example, Slot, constants

PROMPT, ANSWER = [3, 4, 5], [6, 7, 8, 9, 10, 2]
COUNTS = [True, True, False, False, True, True]
OTHER = [11, 12, 2]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=20, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, initializer_range=0.3,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


@torch.no_grad()
def plain(model):
    ids = torch.tensor([PROMPT + ANSWER])
    logps = model(input_ids=ids).logits[0].float().log_softmax(-1)
    each = [logps[len(PROMPT) + n - 1, token] for n, token in enumerate(ANSWER)]
    return torch.stack([value for value, counts in zip(each, COUNTS, strict=True) if counts])


@torch.no_grad()
def test_sums_are_over_the_tokens_that_count_behind_the_whole_context(model):
    sequences = [(PROMPT, marked(ANSWER, COUNTS)), (PROMPT, OTHER)]
    wanted = plain(model)
    padded = token_logps(model, sequences)
    packed = packed_token_logps(model, sequences, max_tokens_per_row=64)
    for found in (padded, packed):
        assert [len(each) for each in found] == [4, 3]
        assert torch.allclose(found[0], wanted, atol=1e-5)
    assert torch.allclose(completion_logps(model, sequences)[0], wanted.sum(), atol=1e-5)
    sums = score_cuts(model, sequences, [(6, 2), (3,)], 64)
    assert sums[0] == pytest.approx([float(wanted.sum()), float(wanted[:2].sum())], abs=1e-5)
    assert check_model(model, sequences[0]) < 1e-5
    assert check_sharing(model, sequences).form is not None


def test_no_gradient_comes_from_tokens_that_do_not_count(model):
    batch = make_batch([(PROMPT, marked(ANSWER, COUNTS))])
    assert batch.targets.tolist() == [6, 7, 10, 2]
    assert batch.input_ids[0].tolist() == PROMPT + ANSWER
    row = pack_sequences([(PROMPT, marked(ANSWER, COUNTS)), (PROMPT, OTHER)], 64)[0]
    assert (np.asarray(row.input_ids) >= 0).all()
    assert row.lengths == (4, 3)


def test_lengths_that_losses_read_are_of_the_tokens_that_count():
    example = Example(
        "a", np.array(PROMPT), {"chosen": np.array(marked(ANSWER, COUNTS)), "rejected": np.array(OTHER)}
    )
    found = constants([Slot(example, 0, True)], ("chosen", "rejected"), torch.device("cpu"))
    assert (float(found["chosen_tokens"][0]), float(found["rejected_tokens"][0])) == (4.0, 3.0)
    assert example.shared_tokens == 3
    assert count_of(example.answers["chosen"]) == 4
