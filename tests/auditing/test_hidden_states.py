"""The claim about hidden states in a whole audit: measured, written, read, recomputed, and left out where it was not asked for."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import make_llama, make_tokenizer

from verify import Settings, audit
from verify.auditing.recompute import recompute
from verify.report.text import summary
from verify.schema.evidence import Evidence

TOKENIZER = make_tokenizer()


def rows(name: str, count: int = 12) -> list[dict[str, str]]:
    return [
        {"example_id": f"{name}{number}", "prompt": f"{name} {number}", "completion": f"the fox jumps {number} times over {name}"}
        for number in range(count)
    ]


def variant(seed: int) -> Any:
    """The same model with a little noise of its own in every weight, as another training run has it."""
    model, random = make_llama(TOKENIZER), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=random)
    return model


def audited(output: Path | None = None, **settings: Any) -> Evidence:
    chosen = Settings(attacks=("loss",), **{"channels": ("no-prompt",), **settings})
    return audit(
        variant(1),
        variant(2),
        references=[variant(seed) for seed in (3, 4, 5, 6)],
        forget_set=rows("dog"),
        holdout_set=rows("cat"),
        tokenizer=TOKENIZER,
        settings=chosen,
        output_dir=output,
    )


@pytest.mark.slow
def test_an_audit_carries_the_claim(tmp_path: Path) -> None:
    """Written, read and recomputed as it was; on the terminal it has its own line."""
    evidence = audited(tmp_path / "out")
    claim = evidence.representation
    assert claim is not None
    assert claim.verdict == "INCONCLUSIVE", "one more model with noise of its own"
    assert {layer.role for layer in claim.layers} == {"forget", "holdout"}
    assert Evidence.load(tmp_path / "out" / "evidence.json") == evidence
    assert recompute(tmp_path / "out").representation == claim
    assert f"hidden states (no vote): {claim.verdict}\n  {claim.reason}" in summary(evidence)
    assert not list(tmp_path.rglob("*.npy"))


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"channels": ("exact",)}, {"rule": 1, "channels": None}])
def test_an_audit_of_the_exact_text_looks_no_further(settings: dict[str, Any]) -> None:
    """Asked for the exact text alone, or by rule 1, no hidden state is read."""
    assert audited(**settings).representation is None
