"""verify-unlearning: register and run audits, recompute reports, certify and check, write reports and letters.

Exit status of `audit` and `report`: 0 EQUIVALENT_WITHIN, 10 NOT_FORGOTTEN, 11 INCONCLUSIVE, 12 NOT_TESTABLE, 2 usage error,
1 other failure.
"""

import sys
from collections.abc import Sequence

from verify.cli.dispatch import Command, run_program
from verify.io.libraries import quiet_imports

COMMANDS = {
    "register": Command(
        "verify.cli.audits:Register",
        "Register, before unlearning, what will be audited and how; give the printed digest to somebody who keeps it.",
    ),
    "audit": Command(
        "verify.cli.audits:Audit",
        "Judge whether a model has forgotten a forget set; writes evidence.json, scores.parquet and report.html.",
    ),
    "split-holdout": Command(
        "verify.cli.audits:SplitHoldout",
        "Split never-trained records by subject: half for the unlearning method, half for the audit.",
    ),
    "report": Command(
        "verify.cli.reports:Report", "Recompute every number of an audit from its scores, and write the report again."
    ),
    "compare": Command(
        "verify.cli.reports:Compare",
        "Compare the audits of several methods: forgetting against utility, and every attack by method.",
    ),
    "power": Command("verify.cli.audits:Power", "Compute what an audit of a given size can show, and the sizes it would need."),
    "probe": Command(
        "verify.cli.measures:Probe",
        "Apply robustness probes (quantization, relearning, other prompts, ...) to all models alike and judge the residual.",
    ),
    "commit": Command(
        "verify.cli.reexecution:Commit",
        "Commit to a finished training before anybody asks for a deletion; give the printed root to somebody who keeps it.",
    ),
    "reexecute": Command(
        "verify.cli.reexecution:Reexecute",
        "Execute the training behind an exact deletion again, and compare every state with the recorded one, bit for bit.",
    ),
    "backdoor": Command(
        "verify.cli.measures:Backdoor",
        "Test a data subject's planted triggers before and after deletion, and on models that never saw them.",
    ),
    "tofu": Command(
        "verify.cli.measures:TofuMetricsCommand",
        "Compute TOFU's model utility and forget quality, for comparison with published numbers; no verdict.",
    ),
    "muse": Command(
        "verify.cli.measures:MuseMetricsCommand",
        "Compute MUSE's VerbMem, KnowMem and PrivLeak, for comparison with published numbers; no verdict.",
    ),
    "attacks": Command("verify.cli.audits:Attacks", "List every attack with its idea, paper, needs and cost."),
    "keygen": Command(
        "verify.cli.certificates:Keygen",
        "Create a key pair for signing certificates: FILE (keep it secret) and FILE.pub (give it to those who check).",
    ),
    "certify": Command(
        "verify.cli.certificates:Certify",
        "Sign how a model was unlearned and what its audit or re-execution found: anybody with the public key can check it.",
    ),
    "check": Command(
        "verify.cli.certificates:Check",
        "Check a certificate and name exactly what does not verify; exit status 0 if everything holds, else 1.",
    ),
    "timestamp": Command(
        "verify.cli.certificates:Timestamp",
        "Get a time stamp (RFC 3161) on a file from an authority, or check one; the authority sees only a digest.",
    ),
    "log-entry": Command(
        "verify.cli.certificates:LogEntry",
        "Enter a certificate's statement in a transparency log, and keep the entry in Sigstore's bundle format.",
    ),
    "bom": Command(
        "verify.cli.certificates:BillOfMaterials",
        "Write the bill of materials (CycloneDX ML-BOM) of a certificate that holds: model, training data, certificate, by digest.",
    ),
    "deletion-report": Command(
        "verify.cli.reports:DeletionReport",
        "Write the compliance page of a batch of deletion requests: what was requested, done, shown and not shown.",
    ),
    "annex": Command(
        "verify.cli.reports:AnnexCommand",
        "Write the annex of an audit for a data-protection file: what EDPB Opinion 28/2024 and the CNIL ask, on one page.",
    ),
    "letter": Command(
        "verify.cli.reports:LetterCommand",
        "Write the letters of reply to deletion requests; sender and addressee are left for you to fill in.",
    ),
    "letter-templates": Command(
        "verify.cli.reports:LetterTemplates",
        "Copy the templates of the letters (every sentence in four languages, the layout, the company's facts) for you to edit.",
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `verify-unlearning` or `python -m verify` and return the exit status."""
    quiet_imports()
    return run_program("verify-unlearning", __doc__ or "", COMMANDS, arguments)


if __name__ == "__main__":
    sys.exit(main())
