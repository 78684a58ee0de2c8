"""Frames that were published decode to the same bytes for ever, with every supported numpy."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.delta_vectors import VECTORS, check_vector

TESTS = Path(__file__).resolve().parents[2]
OLDEST = "numpy==2.0.2"
"""The oldest release that pyproject.toml allows, in its last bug fix for Python 3.11 and 3.12."""


@pytest.mark.parametrize("path", sorted(VECTORS.glob("*.json")), ids=lambda path: path.stem)
def test_a_published_frame_decodes(path: Path) -> None:
    check_vector(path)


def test_there_are_vectors_of_every_shape() -> None:
    found = {path.stem for path in VECTORS.glob("*.json")}
    assert found >= {"plain", "elf-library", "elf-object", "elf-aarch64", "module-types"}


def _check_all(**environment: str) -> None:
    code = (
        "import sys; sys.path[:0] = sys.argv[1:]; import numpy; print(numpy.__version__);"
        "from support.delta_vectors import main; sys.argv[1:] = []; main()"
    )
    target = environment.pop("target", "")
    done = subprocess.run(
        [sys.executable, "-c", code, *([target] if target else []), str(TESTS)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "elf-library.json" in done.stdout
    if target:
        assert done.stdout.startswith(OLDEST.partition("==")[2])


def test_without_the_processor_s_special_features() -> None:
    # What numpy was compiled for can't be switched off; the rest can, one by one.
    core = importlib.import_module("numpy._core._multiarray_umath")

    features, baseline = core.__cpu_features__, core.__cpu_baseline__
    optional = [name for name, here in features.items() if here and name not in baseline]
    _check_all(NPY_DISABLE_CPU_FEATURES=" ".join(optional))


@pytest.mark.skipif(sys.version_info >= (3, 13), reason=f"{OLDEST} has no wheel for this Python")
def test_with_the_oldest_numpy(tmp_path_factory: pytest.TempPathFactory) -> None:
    target = str(tmp_path_factory.mktemp("numpy"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "-q"]
    done = subprocess.run(
        [*pip, "--only-binary=:all:", "--no-deps", "--target", target, OLDEST],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip(f"{OLDEST} can't be installed here: {done.stderr[-200:]}")
    _check_all(target=target)
