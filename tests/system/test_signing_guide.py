"""Promise: the guide to signing in docs/operations.md works as it stands, in order."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from support.servers import nginx_serving

PROJECT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
UNITS = PROJECT / "deploy" / "systemd"


def guide() -> list[str]:
    text = (PROJECT / "docs/operations.md").read_text()
    section = text.split("### Signing\n")[1].split("\n### ")[0]
    blocks = re.findall(r"^```\n(.*?)^```", section, re.M | re.S)
    return [line for block in blocks for line in block.splitlines()]


def test_the_guide_to_signing_works_in_order(tmp_path: Path) -> None:
    for name in ("media/key", "etc/keys", "machine", "build"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "build/f").write_text("1")
    (tmp_path / "pass").write_text("secret\n")
    farm = tmp_path / "farm"

    def run(line: str) -> str:
        words = line.replace("/srv/tree", str(farm)).replace("/media/key", f"{tmp_path}/media/key")
        program, *rest = shlex.split(words.replace("/etc/hacktree/keys", f"{tmp_path}/etc/keys"))
        if " trust " in line and " status" not in line:
            rest += ["--passphrase-file", str(tmp_path / "pass")]
        done = subprocess.run(
            [str(BIN / program), *rest],
            env={**os.environ, "HACKTREE_SYSROOT": str(tmp_path / "machine")},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{line}: {done.stderr}"
        return done.stdout

    run("hacktree --repo /srv/tree init --mode archive")
    run(f"hacktree --repo /srv/tree commit builds {tmp_path}/build")
    lines = guide()
    assert len(lines) > 10
    with nginx_serving(farm) as server:
        for line in lines:
            report = {}
            if "FINGERPRINT" in line or "KEYID" in line:
                report = json.loads(run("hacktree --repo /srv/tree trust status --json"))
            line = line.replace("FINGERPRINT", report.get("root-fingerprint", ""))
            line = line.replace("http://127.0.0.1:8080", server.url)
            if "KEYID" in line:
                (old,) = [r["keys"][0] for r in report["roles"] if r["name"] == "builds"]
                line = line.replace("KEYID", old)
            run(line)
        (tmp_path / "build/f").write_text("2")
        run(f"hacktree --repo /srv/tree commit builds {tmp_path}/build")
        # Not signed yet: the machine stays where the signature is.
        assert "nothing to fetch" in run("hacktree-pull --pull-only builds")
        run("hacktree --repo /srv/tree trust sign builds --key /etc/hacktree/keys/builds-2")
        assert "nothing to fetch" not in run("hacktree-pull --pull-only builds")


@pytest.mark.parametrize("unit", sorted(path.name for path in UNITS.iterdir()))
def test_systemd_takes_the_units_as_they_are(unit: str, tmp_path: Path) -> None:
    """`systemd-analyze verify` knows every directive; only the program's path is this machine's."""
    for path in UNITS.iterdir():
        text = path.read_text().replace("/usr/local/bin/hacktree", str(BIN / "hacktree"))
        (tmp_path / path.name).write_text(text)
    name = unit.replace("@.", "@builds.")
    if name != unit:
        (tmp_path / name).symlink_to(tmp_path / unit)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / name)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    said = [line for line in done.stderr.splitlines() if str(tmp_path) in line or unit in line]
    assert said == []
