"""The container of the service: its files name what exists, and it is built where docker is."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

import unlearn.cli.main
from verify.certificate.signing import make_key

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


def test_what_is_copied_exists() -> None:
    """Every source of the Dockerfile is in the project, and every extra that it installs is declared."""
    text = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")
    sources = [word for line in re.findall(r"^COPY (.+)$", text, flags=re.MULTILINE) for word in line.split()[:-1]]
    assert {"setup.cfg", "constraints.txt", "unlearn", "verify"} <= set(sources)
    assert [name for name in sources if not (ROOT / name).exists()] == []
    (extras,) = re.findall(r'"/src\[([\w,]+)\]"', text)
    declared = (ROOT / "setup.cfg").read_text()
    assert all(f"\n{extra} =\n" in declared for extra in extras.split(","))


def test_its_command_is_one_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The words of the compose file start the service, on the loopback that it shares with the proxy alone."""
    pytest.importorskip("fastapi", reason="the HTTP service is an extra (pip install 'unlearn-verify[serve]')")
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    assert services["desk"]["network_mode"] == "service:proxy"
    assert "ports" not in services["desk"]
    words = [re.sub(r"\$\{\w+:-(.*)\}", r"\1", word).replace("/data", str(tmp_path)) for word in services["desk"]["command"]]
    make_key(tmp_path / "receipts.key")
    assert unlearn.cli.main.main(["new-token", "shop", "--tokens", str(tmp_path / "tokens")]) == 0
    monkeypatch.setenv("UNLEARN_LEDGER", str(tmp_path / "ledger.db"))
    served: list[tuple[str, int]] = []
    monkeypatch.setattr("uvicorn.run", lambda _, **options: served.append((options["host"], options["port"])))
    assert unlearn.cli.main.main(words) == 0
    assert served == [("127.0.0.1", 8765)]
    assert "127.0.0.1:8765" in services["proxy"]["command"]


@pytest.mark.slow
def test_it_is_built(tmp_path: Path) -> None:
    """The image is built and prints the program's version."""
    if shutil.which("docker") is None or subprocess.run(["docker", "info"], capture_output=True, check=False).returncode:
        pytest.skip("no docker is running here")
    subprocess.run(["docker", "build", "-f", "deploy/Dockerfile", "-t", "unlearn-desk-test", "."], cwd=ROOT, check=True)
    done = subprocess.run(["docker", "run", "--rm", "unlearn-desk-test", "--version"], capture_output=True, check=True, text=True)
    assert "unlearn" in done.stdout
