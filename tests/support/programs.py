"""Real programs of this machine, copied into a root with the libraries they need."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

_PLACES: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def copy_programs(root: Path, *programs: str) -> None:
    """Each program, named or by its path, at its own path in the root; a script's is not followed.

    A missing program fails the test with its name: tools/system-packages.sh installs them.
    """
    for name in ("usr/bin", "usr/sbin", "usr/lib", "usr/lib64"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for link in ("bin", "sbin", "lib", "lib64"):
        if not (root / link).is_symlink():
            (root / link).symlink_to(f"usr/{link}")
    for program in programs:
        found = program if program.startswith("/") else shutil.which(program, path=_PLACES)
        assert found is not None, f"{program} is missing: tools/system-packages.sh tests"
        _copy(root, found)
        listed = subprocess.run(["ldd", found], capture_output=True, text=True, check=False)
        for library in re.findall(r"(/\S+) \(0x", listed.stdout):
            _copy(root, library)


def _copy(root: Path, path: str) -> None:
    target = root / path.lstrip("/")
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)
