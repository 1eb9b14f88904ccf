"""Forward and backward of one optimizer step: from a share of rows to gradients and a table of per-row figures."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from prefopt.losses import LossSum
from prefopt.scoring.logprobs import token_logps
from prefopt.scoring.router import Balance, RouterLoss, RouterTap
from prefopt.training.collate import Share, Slot, constants
from prefopt.training.forward import POLICY, PREFIXES, WPO, Table, call_through, detached, mark_last
from prefopt.training.live_reference import LiveReference


class StepRunner:
    """Runs steps of `loss` through an accelerator (its processes, device, wrappers and precision).

    A table holds one value per row of the step, fp32: log-probs by role (summed, nats), `ref_*`, token counts,
    `weight`, `loss`; for LD-DPO also `*_prefix` sums, for WPO `wpo_weight`. It is the same on every process.

    tokens_of: per-token log-probs of sequences, `logprobs.token_logps` or `rows.SharedTokens`.
    reference: None where the rows' stored log-probs are the reference. router: of a mixture of experts. roles: answers that the loss reads. leaves: columns through which its gradient flows.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        loss: LossSum,
        tokens_of: Callable[..., list[Tensor]] = token_logps,
        reference: LiveReference | None = None,
        router: RouterLoss | None = None,
    ) -> None:
        self.router = router
        self.tokens_of = tokens_of
        self.reference = reference
        self.accelerator = accelerator
        self.loss = loss
        self.roles = tuple(role for role in POLICY if role in loss.needs)
        self.prefixes = tuple(name for name in PREFIXES if name in loss.needs)
        self.leaves = (*self.roles, *self.prefixes)
        self.processes = accelerator.num_processes

    def step(self, model: nn.Module, share: Share, progress: float) -> Table:
        """Add the gradients of the exact mean over the step, sum_i w_i l_i / rows; returns the step's table.

        progress: share of the training that is done, for losses that change with it.
        """
        if self.loss.couples == "step":
            return self._coupled_step(model, share, progress)
        return self._plain_step(model, share, progress)

    def _plain_step(self, model: nn.Module, share: Share, progress: float) -> Table:
        """Losses of single rows: one forward and one backward per micro-batch."""
        scale = self.processes / share.rows  # gradients are averaged over processes
        tables = []
        balance = self._balance(model, share)
        for slots, is_last in mark_last(share.micro_batches):
            with exchange_when_last(self.accelerator, model, is_last):
                tap = self._tap(slots)
                table = self._columns(model, slots, self.roles, tap)
                table["loss"] = self.losses(table, progress)
                total = (table["loss"] * (table["weight"] * table["valid"])).sum() * scale
                self.accelerator.backward(self._with_balance(total, balance, tap))
            tables.append(detached(table))
        return gather_rows(self.accelerator, tables) | self._balance_column(balance, share.rows)

    def _coupled_step(self, model: nn.Module, share: Share, progress: float) -> Table:
        """Losses that need the whole step: log-probs first, then d loss / d log-prob drives the backward passes."""
        with torch.no_grad():
            whole = self.score(model, share, self._all_roles())
        leaves = {name: whole[name].clone().requires_grad_() for name in self.leaves}
        losses = self.losses(whole | leaves, progress)
        total = (losses * whole["weight"]).sum() / share.rows
        found = torch.autograd.grad(total, list(leaves.values()), materialize_grads=True)
        slopes = dict(zip(leaves, found, strict=True))
        balance = self._balance(model, share)
        for slots, is_last in mark_last(share.micro_batches):
            positions = [slot.position for slot in slots]
            valid = torch.tensor([float(slot.valid) for slot in slots], device=self.accelerator.device)
            with exchange_when_last(self.accelerator, model, is_last):
                tap = self._tap(slots)
                logps = self._logps(model, slots, self.roles, router=tap)
                parts = [
                    (logps[name] * slopes[name][positions].to(valid) * valid).sum() for name in self.leaves
                ]
                total = torch.stack(parts).sum() * self.processes
                self.accelerator.backward(self._with_balance(total, balance, tap))
        return whole | {"loss": losses.detach()} | self._balance_column(balance, share.rows)

    def _tap(self, slots: Sequence[Slot]) -> RouterTap | None:
        return self.router.tap([slot.valid for slot in slots], len(self.roles)) if self.router else None

    def _balance(self, model: nn.Module, share: Share) -> Balance | None:
        """The load-balancing loss of the step, once it is known where its tokens go."""
        if self.router is None:
            return None
        taps = []
        with torch.no_grad():
            for slots in share.micro_batches:
                tap = self.router.tap([slot.valid for slot in slots], len(self.roles))
                self._logps(model, slots, self.roles, router=tap)
                taps.append(tap)
        chosen, tokens = sum(tap.chosen for tap in taps), sum(tap.tokens for tap in taps)
        return Balance(
            self.router.factor, self.accelerator.reduce(chosen, "sum"), self.accelerator.reduce(tokens, "sum")
        )

    def _with_balance(self, total: Tensor, balance: Balance | None, tap: RouterTap | None) -> Tensor:
        """What is differentiated in a micro-batch; gradients are averaged over processes afterwards."""
        if balance is None or tap is None:
            return total
        return total + balance.add(tap) * self.processes

    def _balance_column(self, balance: Balance | None, rows: int) -> Table:
        """The step's load-balancing loss (without its factor), the same in every row."""
        if balance is None:
            return {}
        value = self.accelerator.reduce(balance.value, "sum")
        return {"router_loss": value.float().expand(rows)}

    def _all_roles(self) -> tuple[str, ...]:
        return (*self.roles, "kl") if "kl" in self.loss.needs else self.roles

    def score(self, model: nn.Module, share: Share, roles: Sequence[str]) -> Table:
        """Log-probs of the whole step on every process, rows in the step's order."""
        return gather_rows(
            self.accelerator, [self._columns(model, slots, roles) for slots in share.micro_batches]
        )

    def _columns(
        self, model: nn.Module, slots: Sequence[Slot], roles: Sequence[str], router: RouterTap | None = None
    ) -> Table:
        """Everything that is known of a micro-batch before its losses."""
        known = constants(slots, roles, self.accelerator.device, self.prefixes)
        if self.reference is not None:
            with torch.no_grad(), self.reference(self.accelerator.unwrap_model(model)):
                live = self._logps(model, slots, roles, weighted=False)
            known |= {f"ref_{name}": values for name, values in live.items()}
        return known | self._logps(model, slots, roles, weighted=WPO in self.loss.needs, router=router)

    def _logps(
        self,
        model: nn.Module,
        slots: Sequence[Slot],
        roles: Sequence[str],
        *,
        weighted: bool = False,
        router: RouterTap | None = None,
    ) -> Table:
        """Summed log-probs [B] (nats, fp32) of each role's answers, prefix sums and WPO's weight where needed."""
        sequences = [(slot.example.prompt, slot.example.answers[role]) for role in roles for slot in slots]
        module = self.accelerator.unwrap_model(model)
        with self.accelerator.autocast():
            tokens = call_through(
                model,
                module,
                lambda inner: self.tokens_of(inner, sequences, squares=weighted, router=router),
            )
        size = len(slots)
        found = {role: tokens[k * size : (k + 1) * size] for k, role in enumerate(roles)}
        logps = (
            {role: [each[:, 0] for each in answers] for role, answers in found.items()} if weighted else found
        )
        table = {role: torch.stack([each.sum() for each in answers]) for role, answers in logps.items()}
        for name in self.prefixes:
            pairs = zip(logps[PREFIXES[name]], slots, strict=True)
            table[name] = torch.stack([each[: slot.example.shared_tokens].sum() for each, slot in pairs])
        if weighted:
            table[WPO] = sequence_weight(found["chosen"]) * sequence_weight(found["rejected"])
        return table

    def losses(self, table: Mapping[str, Tensor], progress: float) -> Tensor:
        """Unweighted losses [B]."""
        values: dict[str, Any] = {name: table[name] for name in self.loss.needs if name in table}
        if "label" in values:
            values["label"] = table["label"] > 0.5
        if "kl" in self.loss.needs:  # KTO's estimate: mean of the mismatched rewards, not below 0
            values["kl"] = (table["kl"] - table["ref_kl"]).mean().clamp(min=0).detach()
        if "progress" in self.loss.needs:
            values["progress"] = torch.tensor(progress, device=table["weight"].device)
        return self.loss(values)


def gather_rows(accelerator: Accelerator, tables: Sequence[Table]) -> Table:
    """Columns of all processes' valid rows, in the step's order. Every table has columns `valid` and `position`."""
    names = list(tables[0])
    rows = torch.cat([torch.stack([table[name].float() for name in names], dim=1) for table in tables])
    # packed rows hold different numbers of examples; what is added has `valid` 0
    rows = accelerator.gather(accelerator.pad_across_processes(rows, dim=0))
    rows = rows[rows[:, names.index("valid")] > 0]
    rows = rows[rows[:, names.index("position")].argsort()]
    return dict(zip(names, rows.unbind(dim=1), strict=True))


@contextlib.contextmanager
def exchange_when_last(accelerator: Accelerator, model: nn.Module, is_last: bool) -> Iterator[None]:
    """Processes exchange gradients with the last micro-batch of a step only."""
    accelerator.gradient_state._set_sync_gradients(is_last)
    with contextlib.nullcontext() if is_last else accelerator.no_sync(model):
        yield


def sequence_weight(tokens: Sequence[Tensor]) -> Tensor:
    """WPO's weight [B] of each answer, no gradient: exp(mean_t [log p(y_t) - log sum_v p_v^2]) (2406.11827, eq. 2).

    tokens: B tensors [answer tokens, 2] of (log p(y_t), log sum_v p_v^2), nats.
    """
    return torch.stack([(each[:, 0] - each[:, 1]).detach().mean() for each in tokens]).exp()
