"""The console script ends at once: whatever it had to say was said, or it says why not."""

import subprocess
import sys
from pathlib import Path

from hacktree.common.cli.main import help_text

HACKTREE = str(Path(sys.executable).with_name("hacktree"))


def test_everything_is_printed_before_it_ends() -> None:
    done = subprocess.run([HACKTREE, "--help"], capture_output=True, text=True, check=True)
    assert done.stdout == help_text() + "\n"
    done = subprocess.run([HACKTREE, "pul"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Did you mean 'pull'?" in done.stderr


def test_output_that_has_no_room_is_a_failure(tmp_path: Path) -> None:
    with (tmp_path / "out").open("w") as stream:
        done = subprocess.run(
            ["sh", "-c", 'ulimit -f 0 && exec "$@"', "sh", HACKTREE, "--help"],
            stdout=stream,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 8
    assert done.stderr == "hacktree: File too large\n"


def test_a_reader_who_has_enough_hears_no_complaint() -> None:
    with subprocess.Popen(
        [HACKTREE, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141
