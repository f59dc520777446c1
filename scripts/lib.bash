# shellcheck shell=bash
# What the provisioning scripts share: messages, becoming root, installing packages without starting services, where the
# distribution's archive is, and where what is made once is kept.

# shellcheck disable=SC2034  # for who sources this
cache=${XDG_CACHE_HOME:-$HOME/.cache}/mybouncer

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

die() {
    say "$*"
    exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

can_be_root() { [ "$(id -u)" -eq 0 ] || have sudo; }

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

distribution() {
    # shellcheck source=/dev/null
    (. /etc/os-release 2>/dev/null && echo "${ID:-unknown}") || echo unknown
}

# Runs a command; its output is shown only if it fails.
quietly() {
    local log rc=0
    log=$(mktemp)
    "$@" >"$log" 2>&1 || rc=$?
    if [ "$rc" -ne 0 ]; then
        say "failed ($rc): $*"
        tail -n 60 "$log" >&2
    fi
    rm -f "$log"
    return "$rc"
}

missing_packages() {
    local package
    for package in "$@"; do
        # shellcheck disable=SC2016  # dpkg-query's own placeholders
        dpkg-query -W -f '${Status}\n' "$package" 2>/dev/null | grep -q '^install ok installed' || echo "$package"
    done
}

# Installs what is missing of the packages given. Packages that bring a server start it when they are installed;
# policy-rc.d is Debian's way to forbid that. It is taken away again, and one that is already there is respected.
install_packages() {
    local missing
    mapfile -t missing < <(missing_packages "$@")
    [ "${#missing[@]}" -gt 0 ] || return 0
    have apt-get || die "needs ${missing[*]}; this machine has no apt-get: install them by hand"
    can_be_root || die "needs ${missing[*]}; not root and no sudo: ask for apt-get install ${missing[*]}"
    say "installing ${missing[*]}"
    # shellcheck disable=SC2016  # expanded by the inner shell
    quietly as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 bash -c '
        set -e
        policy=/usr/sbin/policy-rc.d
        if [ ! -e "$policy" ] && [ ! -L "$policy" ]; then
            trap "rm -f $policy" EXIT
            trap "exit 130" INT TERM HUP
            printf "#!/bin/sh\nexit 101\n" >"$policy"
            chmod 755 "$policy"
        fi
        install() { apt-get -o DPkg::Lock::Timeout=300 install -y -q --no-install-recommends "$@" </dev/null; }
        # The lists may be missing or out of date: only then are they worth fetching.
        install "$@" || { apt-get -o DPkg::Lock::Timeout=300 update -q && install "$@"; }
    ' install "${missing[@]}"
}

# The archive apt is configured with, e.g. as a mirror of the owner's choice.
mirror() {
    local uri
    # shellcheck disable=SC2016  # apt's own placeholders
    while read -r uri; do
        case $uri in
            mirror+file:*) uri=$(grep -Eo '^[a-z+]+:[^[:space:]]+' "${uri#mirror+file:}" | head -n 1) ;;
        esac
        case ${uri%/} in
            *-security | *-backports | *-lts | *-debug | '') ;;
            */debian) echo "$uri" && return 0 ;;
        esac
    done < <(
        apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages'
        sed -nE 's/^(URIs:|deb( \[[^]]*\])?) +([^ ]+).*/\3/p' /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null
    )
    return 1
}
