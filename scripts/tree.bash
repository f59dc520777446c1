# shellcheck shell=bash
# Programs of another Debian suite, in a small tree of their own away from the system, in the user's cache directory: built
# once and found again. Nothing is mounted or chrooted to use it: the programs run with the loader and the libraries of
# the tree.
#
# A script that provides such a tree sources lib.bash and this, says what it wants, and calls `provide_tree "$@"`:
#
#   suite     the suite of Debian
#   tree      the directory
#   packages  what is installed in it
#   wrapped   the programs that can be run from outside; the first two are tried at the end
#   options   a `case` on "$name" for the wrappers: options that programs need to find their data in "$tree"
#   complete  a function that adds what is no package; it gets the directory, and what runs a command inside it
# shellcheck disable=SC2154  # the script's

programs=$tree/outside # wrappers that run the programs of the tree from outside it

find_tree() { [ -x "$programs/${wrapped[0]}" ] && echo "$programs"; }

# apt inside the tree reaches the archive the way apt outside does: proxies, certificates, passwords, name server.
copy_network_settings() {
    local root=$1 file
    apt-config dump | grep '^Acquire::' | grep -v '^Acquire::IndexTargets' >"$root/etc/apt/apt.conf.d/00host" || true
    for file in /etc/apt/auth.conf /etc/apt/auth.conf.d /etc/ssl/certs/ca-certificates.crt \
        $(apt-config dump | sed -nE 's/^Acquire::.*(CaInfo|SslCert|SslKey) "(.+)";/\2/pI'); do
        [ -e "$file" ] || continue
        mkdir -p "$root${file%/*}"
        cp -rL "$file" "$root${file%/*}/"
    done
    cp -L /etc/resolv.conf "$root/etc/resolv.conf"
    echo '127.0.0.1 localhost' >"$root/etc/hosts"
}

write_wrappers() {
    local root=$1 program
    mkdir -p "$root/outside"
    {
        cat <<'WRAPPER'
#!/bin/sh
# Runs a program of this tree from outside: its own loader, its own libraries, its own data files.
name=${0##*/}
tree=$(cd -P "$(dirname "$0")/.." && pwd) || exit 1
for libraries in "$tree"/usr/lib/*-linux-gnu*; do break; done
for loader in "$libraries"/ld-linux*.so.* "$tree"/usr/lib/ld-linux*.so.* "$tree"/usr/lib64/ld-linux*.so.*; do
    [ -e "$loader" ] && break
done
# cleared: what is preloaded or configured for this system's libraries is not meant for the tree's
unset LD_PRELOAD LD_LIBRARY_PATH
export OPENSSL_MODULES="$libraries/ossl-modules" OPENSSL_CONF=/dev/null
[ -x "$tree/usr/sbin/$name" ] && program=$tree/usr/sbin/$name || program=$tree/usr/bin/$name
# Our options go before the caller's, which may override them, but behind one that has to come first.
case ${1:-} in
    --no-defaults | --defaults-* | --print-defaults) first=$1 && shift ;;
    *) first= ;;
esac
WRAPPER
        echo "$options"
        # shellcheck disable=SC2016  # the wrapper's
        echo 'exec "$loader" --library-path "$libraries" --argv0 "$program" "$program" ${first:+"$first"} "$@"'
    } >"$root/outside/run"
    chmod 755 "$root/outside/run"
    for program in "${wrapped[@]}"; do
        if [ -x "$root/usr/sbin/$program" ] || [ -x "$root/usr/bin/$program" ]; then
            ln -sf run "$root/outside/$program"
        fi
    done
}

# Runs as root. Everything happens in a directory beside the tree, which gets its name when it is complete.
build_tree() {
    local url=$1 work=$tree.building
    release() {
        local mounted=$1/proc
        ! mountpoint -q "$mounted" 2>/dev/null || umount "$mounted" || umount -l "$mounted"
    }
    # shellcheck disable=SC2317,SC2329  # called at exit
    discard() {
        release "$tree.building"
        # never across a mount that would not go away
        rm -rf --one-file-system "$tree.building"
    }
    discard
    trap discard EXIT
    trap 'exit 130' INT TERM HUP
    if [ -z "${http_proxy:-}" ]; then
        eval "$(apt-config shell http_proxy Acquire::http::Proxy)"
        [ -z "${http_proxy:-}" ] || export http_proxy
    fi
    debootstrap --variant=minbase "$suite" "$work" "$url"

    printf '#!/bin/sh\nexit 101\n' >"$work/usr/sbin/policy-rc.d"
    chmod 755 "$work/usr/sbin/policy-rc.d"
    copy_network_settings "$work"
    echo "deb $url $suite main" >"$work/etc/apt/sources.list"
    # A container may forbid it; then the packages are installed without.
    mountpoint -q "$work/proc" || mount --bind /proc "$work/proc" || say "no /proc inside the tree; going on without"
    local inside=(chroot "$work" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C
        DEBIAN_FRONTEND=noninteractive)
    "${inside[@]}" apt-get update -q
    "${inside[@]}" apt-get install -y -q --no-install-recommends "${packages[@]}" </dev/null
    complete "$work" "${inside[@]}"
    "${inside[@]}" apt-get clean
    rm -rf "$work/var/lib/apt/lists" && mkdir -p "$work/var/lib/apt/lists/partial"
    release "$work"
    write_wrappers "$work"
    local program
    for program in "${wrapped[@]:0:2}"; do
        "$work/outside/$program" --no-defaults --version
    done
    rm -rf --one-file-system "$tree"
    mv "$work" "$tree"
    trap - EXIT
}

# The tree, built if it is not there, and the directory of its programs printed. With --find, only if it is there.
provide_tree() {
    local url
    if [ "${1:-}" = --build ]; then # ourselves again, as root
        build_tree "$3"
        return 0
    fi
    find_tree && return 0
    [ "${1:-}" != --find ] || return 1
    [ "$(distribution)" = debian ] || die "knows how to build $tree on Debian only"
    can_be_root || die "$tree has to be built from Debian $suite, which needs root; there is no sudo"
    install_packages debootstrap
    url=$(mirror) || die "found no Debian archive in apt's sources"
    mkdir -p "$cache"
    exec 9>"$tree.lock"
    flock 9
    if ! find_tree >/dev/null; then # another run may have built it while we waited
        say "building $tree from Debian $suite (once, a minute or more)"
        quietly as_root env "http_proxy=${http_proxy:-}" bash "$0" --build "$tree" "$url" 9>&-
    fi
    find_tree || die "$tree was built but ${wrapped[0]} is not to be found"
}
