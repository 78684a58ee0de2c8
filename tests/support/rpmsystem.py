"""Small systems that rpm installed: real packages, unpacked by the machine's rpm."""

import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from support.debsystem import Deb
from support.vendor import program

DATABASE: Final = "usr/lib/sysimage/rpm"

_DEFINED: Final = {
    "debug_package": "%{nil}",
    "_build_id_links": "none",
    "__os_install_post": "%{nil}",
    "_binary_payload": "w1.gzdio",
    "_buildhost": "tests.example.org",
    "_binaries_in_noarch_packages_terminate_build": "0",
}


def rpm(root: Path, *words: str | Path, check: bool = True) -> str:
    """What the machine's rpm prints, asked about the database in `root`."""
    defined = {
        "_dbpath": f"/{DATABASE}",
        "_rpmlock_path": f"/{DATABASE}/.rpm.lock",
        "_db_backend": "sqlite",
    }
    command = [program("rpm", "rpm"), "--root", root, "--noplugins", *_options(defined), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def install_rpms(packages: Iterable[Deb], tree: Path, shelf: Path) -> None:
    """Make `tree`, in which rpm installed them; `Deb.control` has fields of a spec.

    `shelf` keeps the files that were built.
    """
    files = [_build(package, shelf) for package in packages]
    (tree / DATABASE).mkdir(parents=True)
    rpm(tree, "-i", "--nodeps", "--nosignature", *files)


def _options(defined: dict[str, str]) -> list[str]:
    return [word for name, value in defined.items() for word in ("--define", f"{name} {value}")]


def _build(package: Deb, shelf: Path) -> Path:
    top = shelf / f"{package.name}-{package.version}"
    built = top / f"{package.name}-{package.version}-1.noarch.rpm"
    if built.exists():
        return built
    content = top / "content"
    content.mkdir(parents=True)
    package.lay_out(content)
    fields = "".join(f"{name}: {value}\n" for name, value in package.control.items())
    listed = "\n".join(f"/{name}" for name in (*package.files, *package.links))
    spec = top / "package.spec"
    spec.write_text(
        f"Name: {package.name}\nVersion: {package.version}\nRelease: 1\nSummary: Made by a test\n"
        f"License: None\nBuildArch: noarch\nAutoReqProv: no\n{fields}"
        f"%description\nMade by a test.\n%install\nmkdir -p %{{buildroot}}\n"
        f"cp -a {content}/. %{{buildroot}}\n%files\n%defattr(-,root,root)\n{listed}\n"
    )
    defined = {**_DEFINED, "_topdir": str(top), "_rpmdir": str(top), "_rpmfilename": built.name}
    command = [str(program("rpmbuild", "rpm")), "-bb", "--quiet", *_options(defined)]
    subprocess.run([*command, str(spec)], check=True, capture_output=True)
    return built
