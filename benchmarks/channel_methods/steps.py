"""Steps towards the levels of several readings in several contexts, with the retain set held.

    minimise  sum_(c, d) w_d [ mean_t h(l_t - l*_t) + 5 e^2 + mu_cd e ]  +  hidden |W_d (h_d - h*_d)|^2 / D    on D_f in context c
              +  alpha KL(p_0 || p) + hold |h_d - h_d0|^2 / var(h_d0) + likelihood l    on D_r  +  weight penalty

l_t: log-probability of token t decoded from reading d (the output or a layer), l*_t its level, e the difference of a record's
means; mu_cd: multiplier of context and reading; h_d: hidden states of a layer, h*_d their level, W_d whitens by the controls'
covariance. h: smooth L1 distance.
"""

import copy
import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.channel_methods.levels import logits_of, read_states, states_of
from unlearn.level.objective import WITHIN
from unlearn.level.readings import OUTPUT
from unlearn.training.divergences import kl_to
from unlearn.training.penalty import WeightPenalty
from verify.data.encoding import Encoded, collate, padding_token_id
from verify.models.loading import LoadedModel
from verify.models.log_probabilities import mean_by_row, output_head
from verify.probes.relearning import trained_parameters
from verify.training.arithmetic import Arithmetic

RECORD_WEIGHT = 5.0
"""That of `level`."""


@dataclass(frozen=True, eq=False)
class Item:
    """A forget record in a context, with its levels.

    Attributes:
        window: its tokens.
        context: name of the context.
        levels: by reading, nats [n].
        states: by layer, hidden states at their level [n, D]; empty without `hidden`.
    """

    window: Encoded
    context: str
    levels: Mapping[int, Tensor]
    states: Mapping[int, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Weights:
    """Weights of the objective's terms, and how the steps are taken.

    Attributes:
        lens, hidden, alpha, hold, likelihood, anchor: as in the formula; `lens` is w_d of the layers, and 1 for the output.
        rate: peak learning rate as a share of the fine-tuning's.
        rows: forget rows of a step. partners: retain rows for each.
        dual: step of the multipliers.
        sharp: change of every weight, as a share of the fine-tuning's rate, by a step of relearning on other forget records, at
            whose end the forget part is evaluated; 0 takes none.
        towards: the weights that the penalty pulls to: those that the steps "start" from, or the "original"'s.
    """

    lens: float = 0.5
    hidden: float = 0.0
    alpha: float = 40.0
    hold: float = 0.0
    likelihood: float = 0.0
    anchor: float = 500.0
    rate: float = 1 / 8
    rows: int = 2
    partners: int = 1
    dual: float = 0.3
    sharp: float = 0.0
    towards: str = "start"


class Steps:
    """One run over items in their order; `tokens` counts what went through the model with a gradient."""

    def __init__(
        self,
        loaded: LoadedModel,
        original: LoadedModel,
        retain: Sequence[Encoded],
        layers: Sequence[int],
        whitening: Mapping[int, Tensor],
        weights: Weights,
        learning_rate: float,
        seed: int,
    ) -> None:
        self.model: Any = loaded.model.eval()
        self.layers, self.weights, self.retain = tuple(layers), weights, retain
        self.pad, self.device = padding_token_id(loaded.tokenizer), next(self.model.parameters()).device
        self.whitening = {layer: value.to(self.device) for layer, value in whitening.items()}
        self.rng, self.tokens, self.learning_rate = np.random.default_rng([seed, 23]), 0, learning_rate
        self.parameters = trained_parameters(self.model)
        for parameter in self.model.parameters():
            parameter.requires_grad_(False)
        for parameter in self.parameters:
            parameter.requires_grad_(True)
        self.head = copy.deepcopy(output_head(original.model))
        self.original, self.seed = original, seed
        self.multipliers: dict[tuple[str, int], float] = defaultdict(float)
        self.kept: dict[int, dict[int, Tensor]] = {}

    def run(self, items: Sequence[Item]) -> None:
        """Take the steps: items in their order, with retain partners, at a rate that falls to zero."""
        weights = self.weights
        count = len(items) * weights.partners
        passes = [self.rng.permutation(len(self.retain)) for _ in range(-(-count // len(self.retain)))]
        partners = np.concatenate(passes)[:count]
        self._keep(sorted({int(index) for index in partners}))
        penalty = None
        if weights.anchor:
            penalty = WeightPenalty.of(self.model, self.retain, self.pad, weights.anchor, self.seed, Arithmetic(in_copies=False))
            self.tokens += penalty.tokens
            if weights.towards == "original":
                before = dict(self.original.model.named_parameters())
                aim = {name: before[name].detach().clone() for name in penalty.start}
                penalty = dataclasses.replace(penalty, start=aim)
        optimizer = torch.optim.AdamW(self.parameters, lr=self.learning_rate, weight_decay=0.0)
        total = -(-len(items) // weights.rows)
        for step in range(total):
            rows = slice(step * weights.rows, (step + 1) * weights.rows)
            mates = partners[rows.start * weights.partners : rows.stop * weights.partners]
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate * (1 - step / total)
            optimizer.zero_grad()
            self._gradients(items, items[rows], [int(index) for index in mates])
            if penalty is not None:
                penalty.pull()
            nn.utils.clip_grad_norm_(self.parameters, 1.0)
            optimizer.step()
        self.model.eval()

    def _keep(self, indices: Sequence[int]) -> None:
        """Read the original's states of the retain windows that will be partners."""
        states = read_states(self.original, [self.retain[index] for index in indices], self.layers if self.weights.hold else ())
        counts = [int(self.retain[index].scored.sum()) for index in indices]
        parts = {layer: torch.split(values, counts) for layer, values in states.items()}
        self.kept = {index: {layer: parts[layer][place] for layer in parts} for place, index in enumerate(indices)}

    def _gradients(self, items: Sequence[Item], chosen: Sequence[Item], mates: Sequence[int]) -> None:
        """Add the gradients of a step."""
        retain = [self.retain[index] for index in mates]
        if not self.weights.sharp:
            rows = [item.window for item in chosen] + retain
            states, batch = self._states(rows)
            count = sum(int(item.window.scored.sum()) for item in chosen)
            first, second = (
                {layer: values[part] for layer, values in states.items()} for part in (slice(count), slice(count, None))
            )
            tokens = batch["input_ids"][batch["scored"]]
            (self._forget(chosen, first, tokens[:count]) + self._retain(mates, second, tokens[count:])).backward()
            return
        moved = self._relearned([items[int(index)] for index in self.rng.choice(len(items), len(chosen), replace=False)])
        states, batch = self._states([item.window for item in chosen])
        self._forget(chosen, states, batch["input_ids"][batch["scored"]]).backward()
        with torch.no_grad():
            for parameter, change in zip(self.parameters, moved, strict=True):
                parameter.sub_(change)
        states, batch = self._states(retain)
        self._retain(mates, states, batch["input_ids"][batch["scored"]]).backward()

    def _relearned(self, others: Sequence[Item]) -> list[Tensor]:
        """Move the weights along the likelihood's gradient on other forget records, and return the change."""
        states, batch = self._states([item.window for item in others])
        loss = F.cross_entropy(logits_of(self.model, states[OUTPUT], OUTPUT), batch["input_ids"][batch["scored"]])
        slopes = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        size = self.weights.sharp * self.learning_rate / self.weights.rate
        changes = []
        with torch.no_grad():
            for parameter, slope in zip(self.parameters, slopes, strict=True):
                change = torch.zeros_like(parameter) if slope is None else -size * slope.sign()
                parameter.add_(change)
                changes.append(change)
        return changes

    def _states(self, windows: Sequence[Encoded]) -> tuple[dict[int, Tensor], dict[str, Tensor]]:
        self.tokens += sum(len(window.input_ids) for window in windows)
        batch = {name: values.to(self.device) for name, values in collate(windows, self.pad).items()}
        return states_of(self.model, batch, self.layers), batch

    def _forget(self, chosen: Sequence[Item], states: Mapping[int, Tensor], tokens: Tensor) -> Tensor:
        weights, size = self.weights, len(chosen)
        rows = torch.repeat_interleave(
            torch.arange(size, device=self.device),
            torch.tensor([int(item.window.scored.sum()) for item in chosen], device=self.device),
        )
        loss = torch.zeros((), device=self.device)
        for layer, hidden in states.items():
            level = torch.cat([item.levels[layer] for item in chosen]).to(self.device)
            values = logits_of(self.model, hidden, layer).log_softmax(-1).gather(-1, tokens[:, None])[:, 0]
            excess = mean_by_row(values - level, rows, size)
            by_token = mean_by_row(F.smooth_l1_loss(values, level, reduction="none"), rows, size)
            pull = torch.tensor([self.multipliers[item.context, layer] for item in chosen], device=self.device)
            by_record = RECORD_WEIGHT * excess.square() + pull * excess
            loss = loss + (1.0 if layer == OUTPUT else weights.lens) * (by_token + by_record).mean()
            for item, one in zip(chosen, excess.detach().tolist(), strict=True):
                self.multipliers[item.context, layer] += weights.dual * (one if abs(one) < WITHIN else 0.0) / size
            if weights.hidden and layer != OUTPUT:
                aim = torch.cat([item.states[layer] for item in chosen]).to(self.device)
                loss = loss + weights.hidden * ((hidden - aim) @ self.whitening[layer]).square().mean()
        return loss

    def _retain(self, mates: Sequence[int], states: Mapping[int, Tensor], tokens: Tensor) -> Tensor:
        weights, size = self.weights, len(mates)
        counts = torch.tensor([int(self.retain[index].scored.sum()) for index in mates], device=self.device)
        rows = torch.repeat_interleave(torch.arange(size, device=self.device), counts)
        logits = logits_of(self.model, states[OUTPUT], OUTPUT)
        with torch.no_grad():
            before = self.head(torch.cat([self.kept[index][OUTPUT] for index in mates]).to(self.device)).float()
        loss = weights.alpha * mean_by_row(kl_to(logits, before), rows, size).mean()
        if weights.likelihood:
            own = F.cross_entropy(logits, tokens, reduction="none")
            loss = loss + weights.likelihood * mean_by_row(own, rows, size).mean()
        if weights.hold:
            for layer in self.layers:
                aim = torch.cat([self.kept[index][layer] for index in mates]).to(self.device)
                loss = loss + weights.hold * (states[layer] - aim).square().mean() / aim.var()
        return loss
