"""What an audit of a given size can show."""

import pytest

from verify import InputError, Settings
from verify.auditing import power
from verify.auditing.power import PowerRow, attack_rows, control_rows, power_table, reference_rows
from verify.statistics.simulation import World

SETTINGS = Settings()


def find(rows: list[PowerRow], text: str) -> tuple[str, str]:
    found = [entry for entry in rows if text in entry.claim]
    assert len(found) == 1, text
    return found[0].given, found[0].needed


def test_published_sizes() -> None:
    """The sizes of verification.md section 10 come out: 571, 143, 268 and about 2,904 per arm."""
    assert find(attack_rows(600, SETTINGS), "AUC within 0.05") == ("can, with 600", "571 per arm")
    assert find(attack_rows(100, SETTINGS), "AUC within 0.1 ") == ("cannot, with 100", "143 per arm")
    assert find(attack_rows(268, SETTINGS), "at most 1 at a false-positive rate of 0.1")[1] == "268 per arm"
    needed = int(find(attack_rows(0, SETTINGS), "at most 1 at a false-positive rate of 0.01")[1].split()[0].replace(",", ""))
    assert abs(needed - 2904) <= 5


@pytest.mark.slow
def test_more_references_show_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """One reference shows nothing, eight certify more often than three."""
    monkeypatch.setattr(power, "AUDITS", 30)
    monkeypatch.setattr(power, "_rule_rate", power._rule_rate.__wrapped__)  # such rough rates stay in no cache
    world = World(records=60)
    assert reference_rows(world, 1, SETTINGS)[0].given.startswith("cannot")
    share = {count: float(reference_rows(world, count, SETTINGS)[0].given.split("%")[0]) for count in (3, 8)}
    assert share[8] > share[3] + 10


def test_controls_for_a_lone_record() -> None:
    """A lone record among K needs 2 K / q - 1 controls: then the smallest p-value passes Benjamini-Hochberg's first step."""
    assert find(control_rows(10, 399, SETTINGS), "single record of the set") == (
        "p-values down to 0.0025; a lone record can be rejected",
        "399 controls",
    )
    assert "cannot be rejected" in find(control_rows(10, 398, SETTINGS), "single record of the set")[0]


@pytest.mark.slow
def test_the_table_has_every_claim(monkeypatch: pytest.MonkeyPatch) -> None:
    """References, held-out controls, canaries and attacks, each with what it takes."""
    monkeypatch.setattr(power, "AUDITS", 4)
    monkeypatch.setattr(power, "_rule_rate", power._rule_rate.__wrapped__)  # such rough rates stay in no cache
    rows = power_table(forget=20, controls=50, references=3, canaries=100, settings=SETTINGS)
    assert [row.claim.split(":")[0] for row in rows][:6] == ["retrained references"] * 3 + ["held-out controls"] * 2 + ["canaries"]
    assert all(row.given and row.needed for row in rows)


@pytest.mark.slow
def test_a_level_table_by_number_of_people(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten people certify more easily than one, whom no table certifies; without enough controls nothing can be said."""
    monkeypatch.setattr(power, "AUDITS", 2)
    monkeypatch.setattr(power, "CONTROL_SUBJECTS", (20, 40))
    world = World(gap=4.0, record_spread=0.2)

    def rows(people: int, controls: int) -> list[PowerRow]:
        found = power_table(forget=4 * people, controls=controls, pool=8, per_subject=4, world=world, settings=SETTINGS)
        return [row for row in found if row.claim.startswith("level table")]

    ten, one, few = rows(10, 160), rows(1, 160), rows(10, 12)
    assert find(ten, "honest") == ("100% of audits", "20 control subjects")
    assert find(one, "honest") == ("cannot: one subject can be accused, never certified", "an exact rebuild that is executed again")
    assert find(one, "keeps one subject")[0] == "100% of audits"
    assert find(few, "honest")[0] == "cannot: fewer than 5 control subjects"


@pytest.mark.parametrize("sizes", [{"pool": 7}, {"pool": 2}, {"pool": 8, "per_subject": 0}])
def test_impossible_tables(sizes: dict[str, int]) -> None:
    """An odd pool, one of two models, or people without records are refused."""
    with pytest.raises(InputError, match="even number of at least 4"):
        power._table_world(World(), 100, sizes["pool"], sizes.get("per_subject", 4))


def test_bad_sizes() -> None:
    """No record, or a negative number of anything, is refused."""
    for sizes in ({"forget": 0}, {"forget": 10, "controls": -1}):
        with pytest.raises(InputError, match="--forget must be"):
            power_table(settings=SETTINGS, **sizes)  # type: ignore[arg-type]
