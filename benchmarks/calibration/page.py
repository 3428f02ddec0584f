"""The page of the calibration suite: rule 2 in front, with a summary in plain sentences, then rule 1."""

import textwrap
from collections.abc import Callable, Sequence

from benchmarks.calibration.attacks.two_faced import TWO_FACED, Attacked
from benchmarks.calibration.conditions import trained_alike
from benchmarks.calibration.real import TRUTHS, RealAudit
from benchmarks.calibration.second_rule import ATTACK_PART, COLUMNS, GATES, HONEST_PART, REMEMBERED_PART, TESTS, SecondCell
from benchmarks.calibration.simulated import CASES, Cell
from unlearn.experiments.comparison import UNTOUCHED
from verify.schema.channels import EXACT, ChannelResult
from verify.statistics import clopper_pearson

FOUND, MISSED = 0.90, 0.05
"""An attack counts as found where at least this share is accused, as missed where more than this share is certified."""
NAMES = {UNTOUCHED: "untouched", TWO_FACED: "two-faced", "retrain": "honest retraining"}


def page(second: Sequence[SecondCell], attacked: Sequence[Attacked], first: str) -> str:
    """Return the page.

    Args:
        second: the simulated audits by rule 2.
        attacked: the audits of the attack on real models.
        first: what `rule_one_section` returns.
    """
    lines = [
        "# Calibration",
        "",
        wrapped(
            "Made by `python -m benchmarks.calibration --output DIR --audits N`. The verdict's defaults: rho* = 0.10, alpha = "
            "0.05. Rates in per cent with exact 95 % intervals."
        ),
        "",
        *summary(second, attacked),
        *_simulated(second),
        *_attack(attacked),
    ]
    return "\n".join(lines) + "\n\n" + first


def summary(second: Sequence[SecondCell], attacked: Sequence[Attacked]) -> list[str]:
    """Say in plain sentences how often rule 2 is right."""
    honest = [cell for cell in second if cell.part == HONEST_PART]
    alike, otherwise = ([cell for cell in honest if trained_alike(cell.name) is same] for same in (True, False))
    tenth = [cell for cell in second if cell.part == REMEMBERED_PART and cell.name.startswith("a tenth")]
    attacks = [cell for cell in second if cell.part == ATTACK_PART]
    worst, worst_other = (max(cells, key=lambda cell: _share(cell, "accused")) for cells in (alike, otherwise))
    missed = [cell for cell in attacks if _share(cell, "certified") > MISSED]
    found = [cell for cell in attacks if cell not in missed and _share(cell, "accused") >= FOUND]
    neither = [cell for cell in attacks if cell not in missed and cell not in found]
    sentences = (
        f"Of {_total(alike):,} simulated audits of honest retrainings ({len(alike)} conditions) {_pooled(alike, 'accused')} % are "
        f"accused and {_pooled(alike, 'certified')} % certified. Rule 1 accuses {_pooled(alike, 'accused by rule 1')} % of "
        f"the same audits and certifies {_pooled(alike, 'certified by rule 1')} %. The worst condition is {worst.name}: "
        f"{_rate(worst, 'accused')} % accused. The references' innocence is doubted in {_pooled(alike, GATES[1])} %; then nothing "
        "is judged.",
        f"Of {_total(otherwise):,} in which the target was honest but trained otherwise than the references ({len(otherwise)} "
        f"conditions: more noise, or its level off) {_pooled(otherwise, 'accused')} % are accused and "
        f"{_pooled(otherwise, 'certified')} % certified; rule 1 accuses {_pooled(otherwise, 'accused by rule 1')} %. The worst is "
        f"{worst_other.name}: {_rate(worst_other, 'accused')} % accused.",
        f"Of {_total(tenth):,} in which a tenth of the records was wholly kept {_pooled(tenth, 'accused')} % are accused and "
        f"{_pooled(tenth, 'certified')} % certified.",
        f"Attacks that are found (at least 90 % accused, at most 5 % certified): {_listed(found, 'accused')}.",
        f"Attacks that are missed (more than 5 % certified): {_listed(missed, 'certified')}.",
        f"Neither, so mostly INCONCLUSIVE: {_listed(neither, 'accused')} (share accused).",
        f"Real models (below): {'; '.join(f'{_title(one)} {one.evidence.verdict_phrase}' for one in attacked)}.",
    )
    bullets = [wrapped(f"- {sentence}") for sentence in sentences]
    other = "Audits of honest and of dishonest retrainings of a pretrained model: [calibration_smollm2](calibration_smollm2.md)."
    return [*bullets, "", "Intervals of pooled rates hold for these conditions in these shares, not for others.", "", other]


def _simulated(second: Sequence[SecondCell]) -> list[str]:
    lines = [
        "",
        "## Rule 2: simulated audits",
        "",
        wrapped(
            "Seven channels, subjects of four records, 40 records and 40 controls unless said; the tests are those of "
            "[the statistics](../../docs/statistics.md). Under their names stands how often each accuses, under the gates' how "
            "often each fails. The planted subject is not drawn here. Of several submissions: accused where all are, "
            "certified where any is."
        ),
    ]
    for part in (HONEST_PART, REMEMBERED_PART, ATTACK_PART):
        lines += [
            "",
            f"### {part}",
            "",
            "| case | audits | rule 1: accused | certified | rule 2: accused | certified | A1 / A2 / A3 / channels "
            "| noise / innocence / memorized fails |",
            "| --- | --- | --- | --- | --- | --- | --- | --- |",
        ]
        for cell in second:
            if cell.part == part:
                rates = " | ".join(_rate(cell, column) for column in COLUMNS[:4])
                plain = (" / ".join(f"{100 * _share(cell, name):.1f}" for name in group) for group in (TESTS, GATES))
                lines.append(f"| {cell.name} | {cell.audits} | {rates} | {' | '.join(plain)} |")
    return lines


def _attack(attacked: Sequence[Attacked]) -> list[str]:
    """Return the attack's section: residual by channel of every audited model."""
    channels = list(dict.fromkeys(channel.name for one in attacked for channel in one.evidence.channels))
    by_name = [{channel.name: channel for channel in one.evidence.channels} for one in attacked]

    def row(title: str, read: Callable[[Attacked], str]) -> str:
        return f"| {title} | " + " | ".join(read(one) for one in attacked) + " |"

    exact = next(channel for channel in attacked[0].evidence.channels if channel.name == EXACT)
    return [
        "",
        "## Rule 2: an attack on real models",
        "",
        wrapped(
            f"The demo's world: {exact.subjects} people of four records are forgotten, a model of four layers, four references, "
            f"{exact.controls} never-trained people as controls. *Two-faced* (`benchmarks/calibration/attacks/two_faced.py`): one "
            "private retraining gives the losses that the model is trained to have on the exact texts, while it is trained on the "
            "same records in the words of rewording 1; 130 steps of 16. One seed. Residual fraction by channel (1 untouched, 0 as "
            "retrained), contrasted with controls; a star: accused, a plus: certified."
        ),
        "",
        row("channel", _title),
        row("---", lambda _: "---"),
        *(
            f"| {name} | " + " | ".join(channel_residual(found[name]) if name in found else "" for found in by_name) + " |"
            for name in channels
        ),
        row("records accused singly", lambda one: str(len(one.evidence.accused))),
        row("rule 1, exact text", lambda one: "accused" if one.accused_before else "certified" if one.certified_before else "open"),
        row("**rule 2**", lambda one: f"**{one.evidence.verdict_phrase}**"),
    ]


def rule_one_section(cells: Sequence[Cell], audits: Sequence[RealAudit], machine: str) -> str:
    """Return the section of rule 1: simulated audits and real models, beside two rules of other authors."""
    lines = [
        "## Rule 1",
        "",
        "The exact texts alone: how audits were judged before rule 2, and what old evidence files recompute to.",
        f"{machine}.",
        '"Forgotten" by TOFU forget quality: two-sample Kolmogorov-Smirnov p > 0.05 on losses against one retrained model; by a',
        "plain AUC: its 95 % interval against never-trained controls contains one half.",
        "",
        "### Simulated audits by rule 1",
        "",
        "| case | K | R | errors | accused | certified | forgotten by forget quality | forgotten by plain AUC |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for cell in sorted(cells, key=lambda entry: list(CASES).index(entry.case)):
        counts = (cell.accused, cell.certified, cell.forget_quality_passes, cell.plain_auc_passes)
        rates = " | ".join(per_cent(count, cell.audits) for count in counts)
        lines.append(f"| {cell.case} | {cell.records} | {cell.references} | {cell.errors} | {rates} |")
    lines += [
        "",
        "### Real models by rule 1",
        "",
        "| truth | audits | accused | certified | inconclusive | not testable | residual fraction | forget quality | plain AUC |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for truth in TRUTHS:
        chosen = [entry for entry in audits if entry.truth == truth]
        words = ("NOT_FORGOTTEN", "EQUIVALENT_WITHIN", "INCONCLUSIVE", "NOT_TESTABLE")
        rates = " | ".join(per_cent(sum(entry.verdict == word for entry in chosen), len(chosen)) for word in words)
        span = f"{min(entry.residual for entry in chosen):+.3f} .. {max(entry.residual for entry in chosen):+.3f}"
        quality, auc = sum(entry.forget_quality for entry in chosen), sum(entry.plain_auc for entry in chosen)
        lines.append(f"| {truth} | {len(chosen)} | {rates} | {span} | {quality} of {len(chosen)} | {auc} of {len(chosen)} |")
    return "\n".join(lines) + "\n\n![Rates by rule 1](calibration.svg)\n"


def wrapped(paragraph: str) -> str:
    """Break a paragraph or a list's item into lines."""
    return textwrap.fill(paragraph, 120, subsequent_indent="  " if paragraph.startswith("- ") else "", break_on_hyphens=False)


def _title(one: Attacked) -> str:
    return NAMES.get(one.name, one.name)


def channel_residual(channel: ChannelResult) -> str:
    """Write a channel's residual fraction, starred where it accuses, with a plus where it certifies."""
    mark = "*" if channel.accused else "+" if channel.certified else ""
    return "" if channel.residual is None else f"{channel.residual.value:.2f}{mark}"


def _total(cells: Sequence[SecondCell]) -> int:
    return sum(cell.audits for cell in cells)


def _pooled(cells: Sequence[SecondCell], column: str) -> str:
    return per_cent(sum(cell.counts[column] for cell in cells), _total(cells))


def _share(cell: SecondCell, column: str) -> float:
    return cell.counts[column] / cell.audits


def _rate(cell: SecondCell, column: str) -> str:
    return per_cent(cell.counts[column], cell.audits)


def _listed(cells: Sequence[SecondCell], column: str) -> str:
    return "; ".join(f"{cell.name} ({100 * _share(cell, column):.0f} %)" for cell in cells) or "none"


def per_cent(hits: int, count: int) -> str:
    """Write a rate in per cent with its exact 95 % interval."""
    rate = clopper_pearson(hits, count, 0.95)
    return f"{100 * rate.value:.1f} [{100 * rate.low:.1f}, {100 * rate.high:.1f}]"
