"""The loss of every objective against an independent computation: one record and one token at a time, in float64."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import lambertw
from tiny_models import make_llama, make_tokenizer
from transformers import GPT2Config, GPT2LMHeadModel

from unlearn.methods import method_classes
from unlearn.methods._alternatives import instead
from unlearn.training.initial_outputs import load_or_compute_outputs
from unlearn.training.method import Batch, InsideLayers, Objective, Progress, WithMemory
from verify.data.encoding import Encoded, Encoder, collate
from verify.data.records import Record
from verify.models.loading import LoadedModel, load_model

TOKENIZER = make_tokenizer()
FORGET = [Record(f"f{number}", prompt=f"who {number}", completion="the quick brown fox " * (number + 1)) for number in range(4)]
RETAIN = [Record(f"r{number}", prompt="over", completion=f"every lazy dog {number}" + " jumps" * number) for number in range(4)]
INSTEAD = [instead(record, "animals jump over " * (number % 3 + 1)) for number, record in enumerate(FORGET)]
OBJECTIVES = {name: kind for name, kind in method_classes().items() if isinstance(kind(), Objective)}
CONSTANT_PARTS = ("wga", "satimp", "ceu")
"""Their weight or target is a constant by definition, so the loss's slope is not its gradient; they have tests of their own."""
ENCODER = Encoder(TOKENIZER, 200)
WINDOWS = {role: ENCODER.encode(found) for role, found in (("forget", FORGET), ("retain", RETAIN), ("alternative", INSTEAD))}


@dataclass
class View:
    """What one model says of one record: log-probabilities of the whole vocabulary [T, V] and the true tokens [T]."""

    logs: np.ndarray
    logits: np.ndarray
    tokens: np.ndarray
    hidden: list[np.ndarray]

    @property
    def true(self) -> np.ndarray:
        return self.logs[np.arange(len(self.tokens)), self.tokens]


def view(model: Any, window: Encoded) -> View:
    """From the whole logits of a single unpadded record."""
    ids = torch.as_tensor(window.input_ids.astype("int64"))[None]
    with torch.no_grad():
        out = model(input_ids=ids, output_hidden_states=True)
    places = np.flatnonzero(window.scored)
    logits = out.logits[0].double().numpy()[places - 1]
    top = logits.max(-1, keepdims=True)
    logs = logits - top - np.log(np.exp(logits - top).sum(-1, keepdims=True))
    return View(logs, logits, window.input_ids[places], [h[0].double().numpy()[places - 1] for h in out.hidden_states])


def log_sigmoid(value: float) -> float:
    return -float(np.log1p(np.exp(-value)))


def kl(first: np.ndarray, second: np.ndarray) -> float:
    """KL(first || second) from log-probabilities [T, V], mean over tokens."""
    return float(np.mean([sum(np.exp(a[v]) * (a[v] - b[v]) for v in range(len(a))) for a, b in zip(first, second, strict=True)]))


def jsd(first: np.ndarray, second: np.ndarray) -> float:
    """Jensen-Shannon divergence from probabilities [T, V], mean over tokens."""
    middle = (first + second) / 2

    def divergence(p: np.ndarray) -> float:
        where = p > 0
        return float((p[where] * np.log(p[where] / middle[where])).sum())

    return (divergence(first) + divergence(second)) / 2 / len(first)


def one_hot(tokens: np.ndarray, size: int) -> np.ndarray:
    return np.eye(size)[tokens]


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def cross_entropy(target: np.ndarray, logs: np.ndarray) -> float:
    """Of probabilities and log-probabilities [T, V], mean over tokens."""
    return float(-(target * logs).sum(-1).mean())


def others(one: View) -> np.ndarray:
    """The model's own distribution without the true tokens, made to sum to one again."""
    left = np.exp(one.logs) * (1 - one_hot(one.tokens, one.logs.shape[1]))
    return left / left.sum(-1, keepdims=True)


def mean(values: Any) -> float:
    return float(np.mean(list(values)))


def conjugate_of(name: str, u: float) -> float:
    if name == "kl":
        return float(np.exp(u - 1))
    if name == "js":
        return float(-np.log(2 - np.exp(u)))
    if name == "tv":
        return u
    w = float(lambertw(np.exp(1 - u)).real)
    return w + 1 / w + u - 2


def variational_of(name: str, v: float) -> float:
    return {"kl": v, "jeffrey": v, "js": float(np.log(2 / (1 + np.exp(-v)))), "tv": float(np.tanh(v)) / 2}[name]


def slow(name: str, m: Any, now: dict[str, list[View]], old: dict[str, list[View]], stranger: list[View]) -> float:
    """Every formula as its paper has it, by loops over records."""
    forget, retain, other = now["forget"], now["retain"], now["alternative"]
    kept = mean(-one.true.mean() for one in retain)
    ratio = {
        role: [a.true.sum() - b.true.sum() for a, b in zip(now[role], old[role], strict=True)] for role in ("forget", "alternative")
    }
    held = mean(kl(b.logs, a.logs) for a, b in zip(retain, old["retain"], strict=True))
    lost = mean(kl(b.logs, a.logs) for a, b in zip(forget, old["forget"], strict=True))
    preferred = [log_sigmoid(0.1 * (b - a)) for a, b in zip(ratio["forget"], ratio["alternative"], strict=True)]
    width = forget[0].logs.shape[1]
    formulas = {
        "gradient_ascent": lambda: mean(one.true.mean() for one in forget),
        "grad_diff": lambda: m.alpha * kept + m.gamma * mean(one.true.mean() for one in forget),
        "grad_ascent_kl": lambda: mean(one.true.mean() for one in forget) + m.alpha * held,
        "npo": lambda: -2 / m.beta * mean(log_sigmoid(-m.beta * value) for value in ratio["forget"]) + m.alpha * kept,
        "simnpo": lambda: (
            -m.gamma * 2 / m.beta * mean(log_sigmoid(-m.beta * one.true.mean() - m.delta) for one in forget) + m.alpha * kept
        ),
        "wga": lambda: mean(np.mean(np.exp(one.true) ** m.beta * one.true) for one in forget) + m.alpha * kept,
        "satimp": lambda: (
            mean(np.mean(np.exp(one.true) ** m.beta1 * (1 - np.exp(one.true)) ** m.beta2 * one.true) for one in forget)
            + m.alpha * kept
        ),
        "dpo": lambda: -2 / 0.1 * mean(preferred) + m.alpha * kept,
        "altpo": lambda: -2 / 0.1 * mean(preferred) + m.alpha * kept,
        "undial": lambda: mean(
            cross_entropy(softmax(before.logits - 10.0 * one_hot(before.tokens, width)), one.logs)
            for one, before in zip(forget, old["forget"], strict=True)
        ),
        "ceu": lambda: mean(cross_entropy(others(one), one.logs) for one in forget),
        "pdu": lambda: (
            mean(np.square(one.logits.max(-1) - one.logits.mean(-1)).mean() for one in forget)
            + 50 * mean(b.true.mean() - a.true.mean() - m.slack for a, b in zip(retain, old["retain"], strict=True))
        ),
        "flat": lambda: mean(
            conjugate_of(m.divergence, variational_of(m.divergence, np.exp(f.true).mean()))
            - variational_of(m.divergence, np.exp(a.true).mean())
            for f, a in zip(forget, other, strict=True)
        ),
        "jensun": lambda: (
            mean(jsd(one_hot(one.tokens, width), np.exp(one.logs)) for one in other)
            + m.alpha * mean(jsd(np.exp(b.logs), np.exp(a.logs)) for a, b in zip(retain, old["retain"], strict=True))
        ),
        "llmu": lambda: (
            m.ascent * mean(one.true.mean() for one in forget)
            - m.mismatch * mean(one.true.mean() for one in other)
            + m.alpha * held
        ),
        "scrub": lambda: -lost,
        "bad_teacher": lambda: (mean(kl(s.logs, one.logs) for s, one in zip(stranger, forget, strict=True)) + held) / 2,
        "rmu": lambda: (
            mean(np.square(one.hidden[1] - m.c * direction(one.hidden[1].shape[1])).mean() for one in forget)
            + m.alpha * mean(np.square(a.hidden[1] - b.hidden[1]).mean() for a, b in zip(retain, old["retain"], strict=True))
        ),
    }
    return formulas[name]()


def direction(width: int) -> np.ndarray:
    drawn = torch.rand(width, generator=torch.Generator().manual_seed(0)).double().numpy()
    return drawn / np.linalg.norm(drawn)


def models() -> tuple[LoadedModel, Any]:
    """A model before unlearning, and one a little away from it, both in float64."""
    before = load_model(make_llama(TOKENIZER).double().eval(), tokenizer=TOKENIZER)
    now = make_llama(TOKENIZER).double().eval()
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in now.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, dtype=torch.float64))
    return before, now


def batch_of(method: Any, order: list[int], **progress: Any) -> Batch:
    parts = {role: collate([found[row] for row in order], TOKENIZER.pad_token_id) for role, found in WINDOWS.items()}
    memory = Progress(values=dict(method.begin()) if isinstance(method, WithMemory) else {}, **progress)
    return Batch(parts["forget"], parts["retain"] if method.needs_retain else None, parts["alternative"], memory)


def fast(method: Any, before: LoadedModel, now: Any, folder: Path, order: list[int]) -> tuple[torch.Tensor, Any]:
    layer = method.inner_layer(now) if isinstance(method, InsideLayers) else None
    reference = load_or_compute_outputs(folder, before, method.reference, WINDOWS, TOKENIZER.pad_token_id, layer=layer)
    return method.loss(now, batch_of(method, order), reference.of(dict.fromkeys(WINDOWS, order), torch.device("cpu"))), reference


@pytest.mark.parametrize("name", OBJECTIVES)
def test_loss_is_its_formula(name: str, tmp_path: Path) -> None:
    """To 1e-6, for a model in float64 that has moved away from the one before unlearning."""
    method = OBJECTIVES[name]()
    before, now = models()
    found, reference = fast(method, before, now, tmp_path, [0, 1, 2, 3])
    views = [{role: [view(model, window) for window in rows] for role, rows in WINDOWS.items()} for model in (now, before.model)]
    stranger = []
    if "random_logits" in reference.heads:
        # The stranger's own logits, from the head that the reference kept and its table: what is tested is the loss.
        kept = reference.of({"forget": [0, 1, 2, 3], "retain": [0], "alternative": [0]}, torch.device("cpu"))
        logits = kept["forget_random_logits"].double().numpy()
        counts = np.cumsum([0, *(int(window.scored.sum()) for window in WINDOWS["forget"])])
        stranger = [
            replace(views[0]["forget"][row], logs=np.log(softmax(logits[counts[row] : counts[row + 1]]))) for row in range(4)
        ]
    expected = slow(name, method, *views, stranger)  # type: ignore[arg-type]
    assert found.item() == pytest.approx(expected, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("divergence", ["kl", "js", "tv", "jeffrey"])
def test_every_divergence_of_flat(divergence: str, tmp_path: Path) -> None:
    """Values to 1e-6; and each falls as the refusal gains and as the true answer loses."""
    method = OBJECTIVES["flat"](divergence=divergence)
    before, now = models()
    views = {role: [view(now, window) for window in rows] for role, rows in WINDOWS.items()}
    found, _ = fast(method, before, now, tmp_path, [0, 1, 2, 3])
    assert found.item() == pytest.approx(slow("flat", method, views, views, []), rel=1e-6)
    levels = torch.linspace(0.01, 0.99, 30, dtype=torch.float64)
    assert (method.variational(levels).diff() > 0).all()
    assert (method.conjugate(method.variational(levels)).diff() > 0).all()


def tiny_gpt2(away: float) -> Any:
    """A small GPT-2 that computes in float64 throughout, where a Llama's norms go through float32."""
    torch.manual_seed(0)
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_inner": 64, "n_positions": 200}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(TOKENIZER), initializer_range=0.3, **sizes)).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(away * torch.randn(parameter.shape, dtype=torch.float64))
    return model


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name not in CONSTANT_PARTS])
def test_gradient_is_the_slope(name: str, tmp_path: Path) -> None:
    """The gradient in a few weights agrees with central differences of the loss."""
    method = OBJECTIVES[name]()
    before, now = (tiny_gpt2(0.0), tiny_gpt2(0.02))
    parameter = now.transformer.h[0].mlp.c_proj.weight
    before = load_model(before, tokenizer=TOKENIZER)
    loss, _ = fast(method, before, now, tmp_path, [0, 1, 2, 3])
    (gradient,) = torch.autograd.grad(loss, parameter)
    for place in ((0, 0), (5, 9), (63, 31)):
        sides = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                parameter[place] += step
                sides.append(fast(method, before, now, tmp_path, [0, 1, 2, 3])[0].item())
                parameter[place] -= step
        assert gradient[place].item() == pytest.approx((sides[0] - sides[1]) / 2e-5, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("name", ["satimp", "wga"])
def test_weights_are_constants(name: str) -> None:
    """The gradient is that of log p times the weight: no term comes from the weight itself."""
    method = method_classes()[name]()
    model = make_llama(TOKENIZER).double().eval()
    windows = Encoder(TOKENIZER, 200).encode([FORGET[0], RETAIN[0]])
    first, second = (collate([window], TOKENIZER.pad_token_id) for window in windows)
    head = model.get_output_embeddings().weight
    (found,) = torch.autograd.grad(method.loss(model, Batch(first, second), {}), head)
    total = torch.zeros_like(found)
    for window, role in zip(windows, ("forget", "retain"), strict=True):
        ids = torch.as_tensor(window.input_ids.astype("int64"))[None]
        logs = model(input_ids=ids).logits[0].log_softmax(-1)
        places = np.flatnonzero(window.scored)
        for place in places:
            value = logs[place - 1, ids[0, place]]
            p = float(value.detach().exp())
            weight = p**method.beta if name == "wga" else p**method.beta1 * (1 - p) ** method.beta2
            scale = weight if role == "forget" else -method.alpha
            (part,) = torch.autograd.grad(value * scale / len(places), head, retain_graph=True)
            total += part
    torch.testing.assert_close(found, total, rtol=1e-6, atol=1e-9)


def test_ceu_pulls_towards_the_others() -> None:
    """In the logits the gradient is p - q, with q the model's own distribution without the true token."""
    from unlearn.training.divergences import cross_entropy_to, without_token

    logits = torch.randn(6, 11, dtype=torch.float64, requires_grad=True)
    tokens = torch.arange(6)
    target = without_token(logits, tokens)
    expected = logits.detach().softmax(-1) - target
    (found,) = torch.autograd.grad(cross_entropy_to(logits, target.clone()).sum(), logits)
    torch.testing.assert_close(found, expected)
    assert (target[torch.arange(6), tokens] == 0).all()


def test_scrub_takes_turns(tmp_path: Path) -> None:
    """Even step counts move away on the forget set, odd ones repair; after the last ascent epoch all repair."""
    method = OBJECTIVES["scrub"](ascent_epochs=2)
    before, now = models()
    reference = load_or_compute_outputs(tmp_path, before, method.reference, WINDOWS, TOKENIZER.pad_token_id)
    chosen = reference.of(dict.fromkeys(WINDOWS, range(4)), torch.device("cpu"))  # type: ignore[arg-type]
    away, repair, late = (
        method.loss(now, batch_of(method, [0, 1, 2, 3], step=step, epoch=epoch), chosen).item()
        for step, epoch in ((0, 0), (1, 0), (4, 2))
    )
    assert away < 0 < repair
    assert late == repair


def test_pdu_prices_the_excess() -> None:
    """The multiplier rises while the retain loss exceeds its bound, falls otherwise, and is never negative."""
    method = OBJECTIVES["pdu"](dual_step=2.0)
    assert method.advance({"multiplier": 5.0}, {"excess": 0.5}) == {"multiplier": 6.0}
    assert method.advance({"multiplier": 0.5}, {"excess": -1.0}) == {"multiplier": 0.0}


def test_adaptive_rmu_aims_by_the_former_norm(tmp_path: Path) -> None:
    """The target's length is the factor times the mean norm of the former hidden states."""
    before, now = models()
    views = {role: [view(before.model, window) for window in rows] for role, rows in WINDOWS.items()}
    norms = np.concatenate([np.linalg.norm(one.hidden[1], axis=-1) for one in views["forget"]])
    adaptive, fixed = OBJECTIVES["rmu"](adaptive=3.0), OBJECTIVES["rmu"](c=3.0 * norms.mean())
    one, other = (fast(method, before, now, tmp_path, [0, 1, 2, 3])[0].item() for method in (adaptive, fixed))
    assert one == pytest.approx(other, rel=1e-6)
