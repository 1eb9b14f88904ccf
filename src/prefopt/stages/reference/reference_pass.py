"""The passes of 04-reference over its rows: tokens, what the store knows, and the log-probs of the rest.

Of each row the answers are scored; where wanted, in the same forward pass the prefixes that LD-DPO reads, and in one of its
own the mismatched completion of KTO.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefopt.core.errors import PrefoptError
from prefopt.tables.context import Context
from prefopt.tables.records import Row, digest

if TYPE_CHECKING:
    from prefopt.scoring.shared import Sharing
    from prefopt.scoring.store import ReferenceStore, StoreKey
    from prefopt.stages.reference.settings import ReferenceConfig

ADDS = ("ref_chosen_logps", "ref_rejected_logps", "chosen_tokens", "rejected_tokens", "truncated")
SINGLE_ADDS = ("ref_completion_logps", "completion_tokens", "truncated")
PREFIX_ADDS = ("ref_chosen_prefix_logps", "ref_rejected_prefix_logps")
KL_ADDS = ("kl_id", "kl_ids", "ref_kl_logps")
ALL_ADDS = (*ADDS, *SINGLE_ADDS, *PREFIX_ADDS, *KL_ADDS)
IDENTICAL = "identical after tokenization"
BATCH_TOKENS = 8192  # of a padded batch


@dataclass(frozen=True)
class Encoded:
    """A row in tokens. answers: by side. kl_id, kl_ids: the mismatched completion's row and tokens."""

    prompt_ids: list[int]
    answers: dict[str, list[int]]
    truncated: bool
    kl_id: str | None = None
    kl_ids: list[int] | None = None


class ReferencePass:
    """One pass over the rows: key, store, and the model, which is loaded when the first row needs it."""

    def __init__(
        self, config: ReferenceConfig, context: Context, sides: Sequence[str], rows: Sequence[Row]
    ) -> None:
        from prefopt.models.load import (
            checkpoint_dtype,
            load_tokenizer,
            model_digest,
            template_digest,
            tokenizer_digest,
        )
        from prefopt.scoring.mismatch import Mismatch
        from prefopt.scoring.store import ReferenceStore, StoreKey

        if context.model is None:
            raise PrefoptError("reference: no model; give --model DIR")
        self.config, self.context, self.path, self.sides = config, context, context.model, tuple(sides)
        self.values = ADDS if len(sides) > 1 else SINGLE_ADDS
        self.prefixes = PREFIX_ADDS if config.prefix_logps else ()
        self.draw = Mismatch(rows, context.seed) if config.mismatched else None
        self.adds = (*self.values, *self.prefixes, *(KL_ADDS if self.draw else ()))
        self.tokenizer = load_tokenizer(self.path)
        self.key: StoreKey = StoreKey(
            model=model_digest(self.path),
            tokenizer=tokenizer_digest(self.tokenizer),
            chat_template=template_digest(self.tokenizer),
            max_length=config.max_length,
            dtype=checkpoint_dtype(self.path) if config.dtype == "auto" else config.dtype,
        )
        own = context.folder.path / "store" if context.folder else None
        self.directory = Path(config.store).expanduser() if config.store else own
        self.store: ReferenceStore = ReferenceStore(self.key, {})
        if config.store and self.directory is not None:
            self.store = ReferenceStore.open(self.directory, self.key)
        self.sharing: Sharing | None = None
        self.first_unfit = ""  # what was said of the first row that cannot be encoded
        self.checked_tokens = 0  # of the longest sequence that `sharing` was checked with

    @cached_property
    def model(self) -> Any:
        """The reference model on its device."""
        from prefopt.models.load import default_device, load_model

        dtype = "float32" if self.config.dtype == "mixed" else self.config.dtype
        return load_model(self.path, dtype=dtype).to(default_device())

    def part(self, rows: Sequence[Row], start: int) -> list[Row]:
        """One result per row: the columns `adds`, or the reason to drop the row."""
        results: list[Row] = []
        todo: list[tuple[int, Encoded]] = []
        for index, row in enumerate(rows):
            known = self.store.get(row) or {}
            encoded, reason = (None, None) if known and not self.draw else self._encode(row)
            if reason is not None and self.context.strict:
                self.context.drop({}, reason, f"reference: row {row['id']!r}")
            if encoded is not None and self.draw is not None:
                encoded = self._with_mismatched(encoded, start + index, str(row["id"]))
            is_known = self._is_known(known, encoded)
            if reason is None and not is_known:
                encoded = encoded or self._encode(row)[0]
                assert encoded is not None  # the store holds no row that is dropped
                todo.append((index, encoded))
            found = {name: known[name] for name in (*self.values, *self.prefixes) if name in known}
            if is_known and encoded is not None:
                found |= self._kl_columns(encoded, known["ref_kl_logps"])
            results.append({"drop": reason, "reused": is_known, **found})
        if todo:
            self._score(rows, todo, results)
        return results

    def _is_known(self, known: Row, encoded: Encoded | None) -> bool:
        """Whether the store holds all that is wanted of a row."""
        if not known or any(name not in known for name in self.prefixes):
            return False
        return self.draw is None or (
            encoded is not None
            and known.get("kl_digest") == digest(encoded.kl_ids)
            and "ref_kl_logps" in known
        )

    def _encode(self, row: Row) -> tuple[Encoded | None, str | None]:
        """The row's tokens, or why it is dropped."""
        from prefopt.models.template import Unfit, encode_answer, encode_pair

        length = self.config.max_length
        try:
            if len(self.sides) == 1:
                one = encode_answer(self.tokenizer, row, row["completion"], max_length=length)
                return Encoded(one.prompt_ids, {"completion": one.marked}, one.truncated), None
            pair = encode_pair(self.tokenizer, row, max_length=length)
        except Unfit as error:
            self.first_unfit = self.first_unfit or str(error)
            return None, error.reason
        except PrefoptError as error:
            raise PrefoptError(f"reference: row {row['id']!r}: {error}") from None
        if pair.chosen_ids == pair.rejected_ids:
            return None, IDENTICAL
        answers = {side: pair.marked(side) for side in ("chosen", "rejected")}
        return Encoded(pair.prompt_ids, answers, pair.truncated), None

    def _with_mismatched(self, encoded: Encoded, index: int, name: str) -> Encoded:
        """The row with the completion drawn for it, cut to the room behind its prompt."""
        assert self.draw is not None
        for other, side in self.draw.candidates(index):
            tokens, _ = self._encode(other)
            if tokens is not None:
                ids = tokens.answers[side][: self.config.max_length - len(encoded.prompt_ids)]
                return replace(encoded, kl_id=str(other["id"]), kl_ids=ids)
        raise PrefoptError(
            f"reference: row {name!r}: no completion of another prompt can be used; see max_length"
        )

    def _kl_columns(self, encoded: Encoded, logp: float) -> Row:
        return {"kl_id": encoded.kl_id, "kl_ids": encoded.kl_ids, "ref_kl_logps": logp}

    def _score(self, rows: Sequence[Row], todo: Sequence[tuple[int, Encoded]], results: list[Row]) -> None:
        """Fill in the results of the rows in `todo`; what the store knew of them stays."""
        from prefopt.models.load import check_ids
        from prefopt.scoring.logprobs import check_model

        fresh = "model" not in vars(self)
        for index, row in todo:
            for ids in (*row.answers.values(), *([row.kl_ids] if row.kl_ids else [])):
                check_ids(self.model, row.prompt_ids + ids, f"reference: row {rows[index]['id']!r}")
        if fresh:
            first = todo[0][1]
            check_model(self.model, (first.prompt_ids, first.answers[self.sides[0]]))
        computed = self._values([row for _, row in todo])
        if self.draw is not None:
            others = [(row.prompt_ids, row.kl_ids or []) for _, row in todo]
            kl_logps = self._sums(others, [(len(ids),) for _, ids in others])
            for values, (_, row), (logp,) in zip(computed, todo, kl_logps, strict=True):
                values |= self._kl_columns(row, logp)
        for (index, _), values in zip(todo, computed, strict=True):
            if not all(math.isfinite(value) for name, value in values.items() if name.startswith("ref_")):
                raise PrefoptError(
                    f"reference: row {rows[index]['id']!r}: log-probs are not finite in {self.key.dtype}; the weights "
                    "hold NaN, or need dtype=float32"
                )
            results[index] = {**values, **results[index]}

    def _sums(
        self, sequences: Sequence[tuple[list[int], list[int]]], cuts: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        """Log-probs of each sequence's first `cuts` answer tokens, on packed rows or in padded batches.

        Where it is not set which, on packed rows if the model can share prefixes.
        """
        from prefopt.scoring.logprobs import score_cuts
        from prefopt.scoring.shared import packed_score_cuts
        from prefopt.training.rows import default_tokens_per_row

        sharing = self._sharing(sequences)  # held against fp32's tolerance, so outside of bf16 arithmetic
        with self._arithmetic():
            if sharing is None:
                return score_cuts(self.model, sequences, cuts, self.config.batch_tokens or BATCH_TOKENS)
            tokens = self.config.max_tokens_per_row or default_tokens_per_row(self.model.device, sharing.form)
            return packed_score_cuts(self.model, sequences, cuts, tokens, sharing)

    def _arithmetic(self) -> AbstractContextManager[Any]:
        """The trainer's own bf16 arithmetic where dtype is mixed: at step 0 the policy then has the reference's log-probs."""
        import torch

        if self.config.dtype != "mixed":
            return nullcontext()
        return torch.autocast(self.model.device.type, dtype=torch.bfloat16)

    def _sharing(self, sequences: Sequence[tuple[list[int], list[int]]]) -> Sharing | None:
        """How the model shares prefixes, checked with the longest sequence so far; None: in padded batches."""
        from prefopt.scoring.shared import check_sharing, sharing_by_config

        wanted = self.config.shared_prefix
        may_share = self.config.batch_tokens is None and sharing_by_config(self.model).form is not None
        if not (may_share if wanted is None else wanted):
            return None
        longest = max(len(prompt) + len(answer) for prompt, answer in sequences)
        if self.sharing is None or longest > self.checked_tokens:  # may be the first to meet a sliding window
            self.sharing, self.checked_tokens = check_sharing(self.model, sequences), longest
        return self.sharing if wanted or self.sharing.form else None

    def _values(self, todo: Sequence[Encoded]) -> list[Row]:
        """Log-probs, prefix sums if wanted, and token counts of each row."""
        from prefopt.models.marks import count_of

        sequences = [(row.prompt_ids, row.answers[side]) for row in todo for side in self.sides]
        if self.prefixes:
            shared = [min(map(count_of, row.answers.values())) for row in todo for _ in self.sides]
            cuts: list[tuple[int, ...]] = [
                (len(answer), cut) for (_, answer), cut in zip(sequences, shared, strict=True)
            ]
        else:
            cuts = [(len(answer),) for _, answer in sequences]
        sums = iter(self._sums(sequences, cuts))
        found: list[Row] = []
        for row in todo:
            values: Row = {"truncated": row.truncated}
            for side in self.sides:
                whole, *prefix = next(sums)
                values |= {f"ref_{side}_logps": whole, f"{side}_tokens": count_of(row.answers[side])}
                values |= {f"ref_{side}_prefix_logps": value for value in prefix}
            found.append(values)
        return found
