"""Packages as vendors make them, of real programs, and a build that they can be installed on."""

import os
import re
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Final

import pytest

from hacktree.client.replay.step import Build
from hacktree.client.roots import read_roots
from hacktree.client.sysroot import Sysroot
from hacktree.common.objects.ids import ObjectId
from hacktree.common.repository.checkout import LinkPolicy, check_out
from support.plain_root import PlainRoot
from support.programs import copy_programs
from support.trees import Directory, File, Spec, Symlink, make_commit

SYSTEM: Final = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n",
    "etc/group": "root:x:0:\n",
    "etc/shadow": "root:*:19000:0:99999:7:::\n",
    "etc/login.defs": "SYS_UID_MIN 100\nSYS_UID_MAX 999\nUSERGROUPS_ENAB yes\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\n",
    "etc/ld.so.conf": "include /etc/ld.so.conf.d/*.conf\n",
    "usr/bin/lsb_release": "#!/bin/sh\n",
    "usr/share/vendor/same": "same\n",
}

SPEC: Final = r"""
Name: vendor-tool
Version: 3.1
Release: 2
Summary: The machine's openssl, as a vendor would package it
License: Apache-2.0
Requires(pre): /usr/sbin/useradd
Requires: vendor-libs = 3.1-2, lsb >= 4.0
%description
A program with a user, a unit, a capability and libraries in a place of their own.
%package -n vendor-libs
Summary: Its libraries
%description -n vendor-libs
Libraries.
%package -n vendor-clash
Summary: Overwrites what the system has
%description -n vendor-clash
Clashes.
%package -n vendor-unmet
Summary: Needs what nobody has
Requires: libdoesnotexist.so.9()(64bit), libz.so.1()(64bit)
%description -n vendor-unmet
Unmet.
%package -n vendor-zip
Summary: Needs zlib
Requires: libz.so.1()(64bit), /usr/bin/touch
%description -n vendor-zip
Zip.
%package -n vendor-killer
Summary: Its script kills rpm
%description -n vendor-killer
Killer.
%package -n vendor-broken
Summary: Its script fails
%description -n vendor-broken
Broken.
%install
mkdir -p %{buildroot}
cd %{buildroot}
mkdir -p opt/vendor/bin opt/vendor/lib usr/bin usr/lib/systemd/system usr/share/vendor
mkdir -p etc/ld.so.conf.d
install -m 755 %{openssl} opt/vendor/bin/openssl
install -m 644 %{libraries} opt/vendor/lib/
echo /opt/vendor/lib > etc/ld.so.conf.d/vendor.conf
printf '[Service]\nExecStart=/opt/vendor/bin/openssl\n[Install]\nWantedBy=multi-user.target\n' \
    > usr/lib/systemd/system/vendor.service
echo mine > usr/bin/touch
echo same > usr/share/vendor/same
echo data > usr/share/vendor/zip
echo data > usr/share/vendor/broken
echo data > usr/share/vendor/unmet
echo data > usr/share/vendor/killer
%pre
useradd --system --no-create-home --shell /usr/sbin/nologin vendor
%post
/sbin/ldconfig
systemctl enable vendor.service
%post -n vendor-broken
echo "looking for a licence server"
exit 3
%post -n vendor-killer
kill -9 $PPID
%files
%caps(cap_net_raw=ep) /opt/vendor/bin/openssl
/usr/lib/systemd/system/vendor.service
%files -n vendor-libs
/opt/vendor/lib
/etc/ld.so.conf.d/vendor.conf
%files -n vendor-clash
/usr/bin/touch
/usr/share/vendor/same
%files -n vendor-unmet
/usr/share/vendor/unmet
%files -n vendor-zip
/usr/share/vendor/zip
%files -n vendor-killer
/usr/share/vendor/killer
%files -n vendor-broken
/usr/share/vendor/broken
"""


def small_system(directory: Path, *, without: str = "libssl|libcrypto") -> Path:
    """A system with merged /usr in which packages' scripts run; no package manager knows of it.

    `without`: a regular expression of the beginnings of libraries that it hasn't got.
    """
    copy_programs(directory, "/bin/sh", "touch", "useradd", "ldconfig", "systemctl", "openssl")
    for path in (directory / "usr").rglob("*"):
        if re.match(f"openssl$|({without})", path.name):
            path.unlink()
    for name, data in SYSTEM.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(data)
    (directory / "usr/bin/lsb_release").chmod(0o755)
    (directory / "tmp").mkdir()
    (directory / "tmp").chmod(0o1777)
    return directory


def commit_of(sysroot: Sysroot, directory: Path, number: int = 1) -> ObjectId:
    """The directory as the build `number`."""
    tree: dict[str | bytes, Spec] = {}
    for path in directory.rglob("*"):
        name = str(path.relative_to(directory))
        if path.is_symlink():
            tree[name] = Symlink(os.fsencode(path.readlink()))
        elif path.is_dir():
            tree[name] = Directory(stat.S_IMODE(path.stat().st_mode))
        else:
            tree[name] = File(path.read_bytes(), stat.S_IMODE(path.stat().st_mode))
    return make_commit(
        sysroot.repository, tree, time=1_700_000_000 + number * 86_400, version=f"47.{number}"
    )


def program(name: str, package: str) -> Path:
    """Where this machine has it; fails the test with the package's name."""
    found = shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin")
    if found is None:
        pytest.fail(f"this test needs {name}: install the package {package}")
    return Path(found).resolve()


def libraries_of(path: Path) -> list[Path]:
    """The libraries that a program is linked with."""
    done = subprocess.run(["ldd", path], capture_output=True, text=True, check=True)
    return [Path(found) for found in re.findall(r"(/\S+) \(0x", done.stdout)]


def find_library(name: str) -> Path:
    """Where this machine's loader finds it."""
    places = (f"/lib/{os.uname().machine}-linux-gnu", "/usr/lib64")
    found = [path for place in places if (path := Path(place, name)).exists()]
    assert found, f"this test needs {name}"
    return found[0]


def of_openssl() -> list[Path]:
    """Its own libraries."""
    found = libraries_of(program("openssl", "openssl"))
    return [path for path in found if path.name.startswith(("libssl", "libcrypto"))]


def build_rpms(directory: Path) -> dict[str, Path]:
    """By name, the packages of the spec."""
    (directory / "vendor.spec").write_text(SPEC)
    defined = {
        "_topdir": str(directory),
        "openssl": str(program("openssl", "openssl")),
        "libraries": " ".join(str(path.resolve()) for path in of_openssl()),
        "debug_package": "%{nil}",
        "_build_id_links": "none",
        "__os_install_post": "%{nil}",
        "_binary_payload": "w1.gzdio",
    }
    words = [word for name, value in defined.items() for word in ("--define", f"{name} {value}")]
    spec = str(directory / "vendor.spec")
    command = [str(program("rpmbuild", "rpm")), "-bb", "--quiet", *words, spec]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    packages = sorted((directory / "RPMS").glob("*/*.rpm"))
    return {path.name.rsplit("-", 2)[0]: path for path in packages}


def build_deb(
    directory: Path, *, depends: str, files: dict[str, bytes], postinst: str = "exit 0"
) -> Path:
    """A deb of these files and the machine's openssl, as a vendor would make it."""
    top = directory / "deb"
    shutil.rmtree(top, ignore_errors=True)
    (top / "DEBIAN").mkdir(parents=True)
    program("dpkg-deb", "dpkg")
    architecture = subprocess.run(
        ["dpkg", "--print-architecture"], capture_output=True, text=True, check=True
    ).stdout.strip()
    (top / "DEBIAN/control").write_text(
        f"Package: vendor-deb\nVersion: 1.0-1\nArchitecture: {architecture}\n"
        f"Maintainer: Vendor <vendor@example.org>\nDepends: {depends}\n"
        "Description: The machine's openssl\n As a vendor would package it.\n"
    )
    script = top / "DEBIAN/postinst"
    script.write_text(f"#!/bin/sh\nset -e\n{postinst}\n")
    script.chmod(0o755)
    for name, data in {
        "opt/deb/openssl": program("openssl", "openssl").read_bytes(),
        **files,
    }.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        path.chmod(0o755)
    for where, _, _ in os.walk(top):
        os.chmod(where, 0o755)
    command = ["dpkg-deb", "--build", "--root-owner-group", "-Zgzip", "-z1"]
    command += [str(top), str(directory / "vendor.deb")]
    subprocess.run(command, check=True, capture_output=True)
    return directory / "vendor.deb"


def plain_root(sysroot: Sysroot, commit_id: ObjectId, path: Path) -> PlainRoot:
    """A copy of the build, and the root that is live as the one before."""
    commit = sysroot.repository.load_commit(commit_id)
    check_out(sysroot.repository, commit, path, policy=LinkPolicy.COPY)
    live = read_roots(sysroot).current
    return PlainRoot(
        path, Build(sysroot, commit_id, commit, sysroot.roots / live if live else None)
    )
