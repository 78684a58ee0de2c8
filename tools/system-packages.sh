#!/usr/bin/env bash
# The programs that tests and the demo talk to: installed when root on Debian, else named.
set -euo pipefail

declare -A packages=(
    [nginx]=nginx [strace]=strace [rpm]=rpm [rpmbuild]=rpm [mkfs.ext4]=e2fsprogs
    [setcap]=libcap2-bin [unshare]=util-linux
)
missing=()
for program in "${!packages[@]}"; do
    PATH="$PATH:/usr/sbin:/sbin" command -v "$program" >/dev/null || missing+=("${packages[$program]}")
done
[ ${#missing[@]} -eq 0 ] && exit 0
mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    # A package's service must not start: nobody asked for a running web server.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 0755 "$policy"
        trap 'rm -f "$policy"' EXIT
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q
    apt-get install -q -y --no-install-recommends "${missing[@]}"
    exit 0
fi
echo "Missing programs. Install these packages, then run this again:" >&2
echo "  Debian, Ubuntu: sudo apt-get install ${missing[*]}" >&2
echo "  Fedora:         sudo dnf install nginx strace rpm-build e2fsprogs libcap util-linux" >&2
exit 1
