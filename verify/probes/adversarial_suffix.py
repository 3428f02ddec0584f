"""Adversarial-suffix probe: what a search of fixed cost for an eliciting suffix reaches."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from verify.data.encoding import Encoded, Encoder
from verify.models.loading import LoadedModel
from verify.probes.base import Array, Material, ProbeNotRunError


@dataclass(frozen=True)
class AdversarialSuffix:
    """Search for tokens behind the prompt that elicit the record, by greedy coordinate gradient with a fixed budget.

    Zou et al. 2023 (arXiv 2307.15043), algorithm 1; on unlearned models Łucki et al. 2024 (arXiv 2409.18025). With enough steps a
    suffix elicits any string from any model, known or not. The measurement is therefore the loss after a number of steps, and its
    control is the same search in the retrained references, for which these very strings were never trained: a model that knows
    them needs fewer steps.

    It is run only when it is named: each step costs one backward pass and `candidates` forward passes for each record and model.

    Attributes:
        budgets: numbers of steps after which the losses are measured.
        length: tokens of the suffix.
        candidates: exchanges that each step tries.
        best: tokens of each position among which the gradient's candidates are drawn.
        records: number of forget records, drawn by the seed; the others are not scored.
    """

    budgets: tuple[int, ...] = (5, 20)
    length: int = 8
    candidates: int = 32
    best: int = 64
    records: int = 4

    idea: ClassVar[str] = "search for a suffix that elicits the record, at a fixed cost"
    paper: ClassVar[str] = "Zou et al. 2023 (arXiv 2307.15043)"
    by_default: ClassVar[bool] = False

    def losses(self, loaded: LoadedModel, material: Material) -> Mapping[str, Array]:
        """Compute the losses after each number of steps; NaN for records that are not searched for.

        Raises:
            ProbeNotRunError: no record leaves room for the suffix in the context.
        """
        found = {f"suffix of {steps} steps": np.full(len(material.forget), np.nan) for steps in self.budgets}
        windows = Encoder(loaded.tokenizer, loaded.context_length, "split").encode(material.forget)
        counts = np.bincount([window.record for window in windows], minlength=len(material.forget))
        room = loaded.context_length - self.length
        able = [window for window in windows if counts[window.record] == 1 and len(window.input_ids) <= room]
        if not able:
            raise ProbeNotRunError(f"no record leaves room for {self.length} more tokens in the context")
        order = np.random.default_rng(material.seed).permutation(len(able))[: self.records]
        for index in sorted(order.tolist()):
            reached = self._search(loaded, able[index], material.seed + index)
            for steps in self.budgets:
                found[f"suffix of {steps} steps"][able[index].record] = reached[steps]
        return found

    def _search(self, loaded: LoadedModel, window: Encoded, seed: int) -> dict[int, float]:
        """Return the smallest loss after each number of steps, nats per token; every random draw is the same for every model."""
        rng = np.random.default_rng(seed)
        device = next(loaded.model.parameters()).device
        allowed = torch.tensor(ordinary_tokens(loaded.tokenizer), device=device)
        # The suffix stands directly in front of the first scored token.
        start = int(np.argmax(window.scored))
        suffix = allowed[torch.from_numpy(rng.integers(len(allowed), size=self.length)).to(device)]
        ids = torch.from_numpy(window.input_ids.astype(np.int64)).to(device)
        scored = torch.from_numpy(np.insert(window.scored, start, np.zeros(self.length, dtype=bool))).to(device)

        def whole(suffixes: Tensor) -> Tensor:
            """Return the token ids of the record with each suffix, from [S, suffix] to [S, L]."""
            rows = len(suffixes)
            return torch.cat([ids[:start].expand(rows, -1), suffixes, ids[start:].expand(rows, -1)], dim=1)

        with torch.inference_mode():
            loss, reached = float(row_losses(loaded.model, whole(suffix[None]), scored)[0]), dict[int, float]()
        for step in range(1, max(self.budgets) + 1):
            downhill = self._descent(loaded.model, whole(suffix[None]), scored, start)[:, allowed]  # [suffix, allowed]
            top = downhill.topk(min(self.best, len(allowed)), dim=-1).indices
            places = torch.from_numpy(rng.integers(self.length, size=self.candidates)).to(device)
            ranks = torch.from_numpy(rng.integers(top.shape[1], size=self.candidates)).to(device)
            tried = suffix.repeat(self.candidates, 1)
            tried[torch.arange(self.candidates, device=device), places] = allowed[top[places, ranks]]
            with torch.inference_mode():
                losses = row_losses(loaded.model, whole(tried), scored)
            winner = int(losses.argmin())
            if float(losses[winner]) < loss:
                suffix, loss = tried[winner].clone(), float(losses[winner])
            reached[step] = loss
        return reached

    def _descent(self, model: Any, ids: Tensor, scored: Tensor, start: int) -> Tensor:
        """Return how far the loss would fall, to first order, for every token at every position of the suffix [suffix, V]."""
        table = model.get_input_embeddings()
        with torch.enable_grad():
            embedded = table(ids).detach().requires_grad_(True)  # [1, L, D]
            logits = model(inputs_embeds=embedded, use_cache=False).logits
            (gradient,) = torch.autograd.grad(_mean_loss(logits, ids, scored)[0], embedded)
        rows: Tensor = gradient[0, start : start + self.length].float()
        descent: Tensor = -rows @ table.weight.detach().float().T
        return descent


def row_losses(model: Any, ids: Tensor, scored: Tensor) -> Tensor:
    """Compute the mean loss of the scored tokens of each row [S], from token ids [S, L] and one mask [L]."""
    return _mean_loss(model(input_ids=ids, use_cache=False).logits, ids, scored)


def _mean_loss(logits: Tensor, ids: Tensor, scored: Tensor) -> Tensor:
    positions = torch.nonzero(scored)[:, 0]
    values = logits[:, positions - 1].float().log_softmax(-1)
    return -values.gather(-1, ids[:, positions, None])[..., 0].mean(-1)


def ordinary_tokens(tokenizer: Any) -> list[int]:
    """Return the ids of all tokens that are not special, in order."""
    special = {*tokenizer.all_special_ids, *(index for index, token in tokenizer.added_tokens_decoder.items() if token.special)}
    return sorted(set(tokenizer.get_vocab().values()) - special)
