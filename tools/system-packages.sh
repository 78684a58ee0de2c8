#!/bin/bash
# What the project needs from the operating system and pip can't bring.
#
#   tools/system-packages.sh venv     to make a virtual environment
#   tools/system-packages.sh demo     to run the demo
#   tools/system-packages.sh tests    to run the tests
#   tools/system-packages.sh bench    to compare with ostree
#
# As root on Debian or Ubuntu, missing packages are installed, and no service is left running or
# enabled. Otherwise the commands to type are printed. Exit status 1 if something is missing.
set -euo pipefail

# /sbin is not in everybody's PATH.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

missing=() # Debian's names
missing_fedora=()

need() { # DEBIAN-NAME FEDORA-NAME TEST...
    local debian=$1 fedora=$2
    shift 2
    if ! "$@" >/dev/null 2>&1; then
        missing+=("$debian")
        missing_fedora+=("$fedora")
    fi
}

look_for() {
    case $1 in
    venv)
        # Debian splits ensurepip off; Fedora ships it with Python.
        need python3-venv python3 "${PYTHON:-python3}" -c 'import ensurepip, venv'
        ;;
    demo)
        need nginx nginx command -v nginx
        ;;
    tests)
        look_for demo
        need strace strace command -v strace
        need bubblewrap bubblewrap command -v bwrap
        need openssl openssl command -v openssl
        need dpkg dpkg command -v dpkg-query
        need rpm rpm-build command -v rpmbuild
        need db-util libdb-utils command -v db_load
        need gcc gcc command -v gcc
        need g++ gcc-c++ command -v g++
        need passwd shadow-utils command -v grpck
        need e2fsprogs e2fsprogs command -v mkfs.ext4
        need xfsprogs xfsprogs command -v mkfs.xfs
        need btrfs-progs btrfs-progs command -v mkfs.btrfs
        need qemu-system-common qemu-img command -v qemu-storage-daemon
        need libcap2-bin libcap command -v setcap
        need systemd systemd command -v systemd-analyze
        need kmod kmod command -v depmod
        need udev systemd-udev command -v systemd-hwdb
        need libglib2.0-bin glib2-devel command -v glib-compile-schemas
        need desktop-file-utils desktop-file-utils command -v update-desktop-database
        need shared-mime-info shared-mime-info command -v update-mime-database
        need gtk-update-icon-cache gtk-update-icon-cache command -v gtk-update-icon-cache
        need fontconfig fontconfig command -v fc-cache
        need qemu-system-x86 qemu-system-x86-core command -v qemu-system-x86_64
        need xvfb xorg-x11-server-Xvfb command -v Xvfb
        need xauth xorg-x11-xauth command -v xauth
        need x11-utils xdpyinfo command -v xdpyinfo
        need weston weston command -v weston
        need wayland-utils wayland-utils command -v wayland-info
        need dbus dbus-tools command -v dbus-send
        need pulseaudio pulseaudio command -v pulseaudio
        need pulseaudio-utils pulseaudio-utils command -v pactl
        need busybox-static busybox test -x /bin/busybox
        need chromium chromium command -v chromium
        need chromium-driver chromedriver command -v chromedriver
        ;;
    bench)
        look_for tests
        need ostree ostree command -v ostree
        need iproute2 iproute-tc command -v tc
        need zstd zstd command -v zstd
        need xdelta3 xdelta command -v xdelta3
        ;;
    *)
        sed -n '2,11s/^# \{0,1\}//p' "$0" >&2
        exit 2
        ;;
    esac
}

install_missing() {
    export DEBIAN_FRONTEND=noninteractive
    local -r policy=/usr/sbin/policy-rc.d
    local -r apt=(apt-get -q -o DPkg::Lock::Timeout=300)
    local -r install=("${apt[@]}" install --yes --no-install-recommends "${missing[@]}")
    # Packages ask this program whether they may start their service.
    if [[ ! -e $policy ]]; then
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    "${install[@]}" || { "${apt[@]}" update && "${install[@]}"; }
    if [[ " ${missing[*]} " == *" nginx "* ]]; then
        update-rc.d nginx disable
    fi
}

# A kernel for the tests that boot one: unpacked, never installed on this machine. Elsewhere than on
# Debian they take the machine's own.
fetch_kernel() {
    local -r place=build/kernel
    if [[ -d $place/boot ]] || ! grep -qx ID=debian /etc/os-release; then
        return
    fi
    download_kernel "$place.new" || { apt-get -q update && download_kernel "$place.new"; }
    rm -rf "$place"
    mv "$place.new" "$place"
}

download_kernel() { # DIRECTORY
    rm -rf "$1"
    mkdir -p "$1"
    local package
    package=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: //p' | head -n 1)
    [[ -n $package ]] && (cd "$1" && apt-get -q download "$package") &&
        dpkg-deb -x "$1"/*.deb "$1" && rm "$1"/*.deb
}

explain() {
    echo "hacktree: missing system packages: ${missing[*]}"
    echo "  Debian, Ubuntu:  sudo apt-get install ${missing[*]}"
    echo "  Fedora, RHEL:    sudo dnf install ${missing_fedora[*]}"
} >&2

cd "$(dirname "$0")/.."
look_for "${1:-}"
if ((${#missing[@]} > 0 && EUID == 0)) && command -v apt-get >/dev/null; then
    echo "hacktree: installing ${missing[*]}"
    install_missing || echo "hacktree: apt-get failed" >&2
    missing=()
    missing_fedora=()
    look_for "$1"
fi
if ((${#missing[@]} > 0)); then
    explain
    exit 1
fi
if [[ $1 == tests ]]; then
    fetch_kernel
fi
