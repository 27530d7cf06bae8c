#!/bin/sh
# Install or upgrade triage below /opt/triage, with its units, user and configuration.
#
# May be run again at any time: it never changes /etc/triage/triage.toml, /var/lib/triage or a
# drop-in, and starts and stops nothing. INSTALL.md tells what comes before and after.
set -eu
umask 022

usage() {
    cat <<'END'
usage: install.sh [--all-in-one] [--wheel FILE] [--wheelhouse DIR] [--python PYTHON]
       install.sh --no-venv DIR [--all-in-one]
       install.sh --activate RELEASE
       install.sh --uninstall

  --all-in-one      enable triage.service instead of triage.target with separate services
  --wheel FILE      the program (default: built from the source tree beside this script)
  --wheelhouse DIR  install from the wheels in DIR alone, without any network
  --python PYTHON   Python 3.11 or newer (default: python3)
  --no-venv DIR     use the environment in DIR instead of making one
  --activate NAME   switch to a release that is there already, with its units: forth and back
  --uninstall       take away programs and units; /etc/triage and /var/lib/triage stay

Environment: DESTDIR, a root directory to install into, for packages and trials.
END
}

say() { printf '%s\n' "$*"; }
fail() { printf 'install.sh: %s\n' "$*" >&2; exit 1; }

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
root=${DESTDIR:-}
prefix=$root/opt/triage
units=$root/usr/local/lib/systemd/system
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

all_in_one=no wheel='' wheelhouse='' python=python3 environment='' activate='' uninstall=no
while [ $# -gt 0 ]; do
    case $1 in
        --all-in-one) all_in_one=yes ;;
        --uninstall) uninstall=yes ;;
        --help | -h) usage; exit 0 ;;
        --wheel | --wheelhouse | --python | --no-venv | --activate)
            [ $# -ge 2 ] || { usage >&2; exit 64; }
            case $1 in
                --wheel) wheel=$2 ;;
                --wheelhouse) wheelhouse=$2 ;;
                --python) python=$2 ;;
                --no-venv) environment=$2 ;;
                --activate) activate=$2 ;;
            esac
            shift ;;
        *) usage >&2; exit 64 ;;
    esac
    shift
done
[ -n "$root" ] || [ "$(id -u)" -eq 0 ] || fail "must be run by root, or with DESTDIR set"

# Owner and group of what the daemon may only read; a scratch root knows no such user.
group() { if [ -z "$root" ]; then chown "root:$1" "$2"; fi; }

# Point /opt/triage/current at an environment, in one step: no service sees it missing.
switch_to() {
    ln -sfn "$1" "$prefix/current.new"
    mv -fT "$prefix/current.new" "$prefix/current"
}

uninstall() {
    if [ -z "$root" ]; then
        systemctl disable --now triage.target triage.service triage-watch.service \
            triage-receive.service triage-schedule.service 'triage-analyse@0.service' || :
        systemctl stop 'triage-*' || :
    elif [ -d "$units" ]; then
        systemctl --root="$root" disable triage.target triage.service triage-watch.service || :
    fi
    rm -rf "$prefix" "$units/triage-.service.d/10-restart-steps.conf" \
        "$units/triage.service.d/10-restart-steps.conf"
    rm -f "$units"/triage.target "$units"/triage.service "$units"/triage-*.service \
        "$root/usr/local/lib/sysusers.d/triage.conf" "$root/usr/local/lib/tmpfiles.d/triage.conf" \
        "$root/usr/local/bin/triage"
    rmdir "$units/triage-.service.d" "$units/triage.service.d" 2>/dev/null || :
    [ -n "$root" ] || systemctl daemon-reload
    say "Taken away. /etc/triage, /var/lib/triage and the user triage are as they were."
}

# Make the environment of one release, named after what is in it; print the name.
release() {
    if [ -z "$wheel" ]; then
        [ -f "$here/../pyproject.toml" ] || fail "there is no source tree here: name the --wheel"
        "$python" -m pip wheel --quiet --no-deps --wheel-dir "$scratch" "$here/.." >&2
        wheel=$(echo "$scratch"/triage-*.whl)
    fi
    [ -f "$wheel" ] || fail "there is no wheel $wheel"
    file=$(basename -- "$wheel")
    version=${file#triage-}
    name=${version%%-*}-$(sha256sum <"$wheel" | cut -c1-8)
    if [ ! -f "$prefix/releases/$name/.complete" ]; then
        rm -rf "$prefix/releases/$name"
        "$python" -m venv "$prefix/releases/$name"
        set -- --quiet --disable-pip-version-check
        [ ! -f "$here/../constraints.txt" ] || set -- "$@" --constraint "$here/../constraints.txt"
        [ -z "$wheelhouse" ] || set -- "$@" --no-index --find-links "$wheelhouse"
        "$prefix/releases/$name/bin/python" -m pip install "$@" "$wheel" >&2
        "$prefix/releases/$name/bin/triage" --version >&2
        : >"$prefix/releases/$name/.complete"
    fi
    echo "$name"
}

install_files() {
    mkdir -p "$units" "$prefix/share/drop-ins" "$root/usr/local/lib/sysusers.d" \
        "$root/usr/local/lib/tmpfiles.d" "$root/usr/local/bin"
    # No unit of another release stays behind.
    rm -f "$units"/triage.target "$units"/triage*.service
    install -m 644 "$here"/triage*.service "$here/triage.target" "$units"
    install -m 644 "$here/triage.sysusers" "$root/usr/local/lib/sysusers.d/triage.conf"
    install -m 644 "$here/triage.tmpfiles" "$root/usr/local/lib/tmpfiles.d/triage.conf"
    install -m 755 "$here/triage.sh" "$root/usr/local/bin/triage"
    install -m 644 "$here"/*.md "$prefix/share"
    install -m 644 "$here"/drop-ins/*.conf "$prefix/share/drop-ins"
    # RestartSteps= is known from systemd 254 on; an older one would warn at every start.
    systemd_version=$(systemctl --version 2>/dev/null | awk 'NR == 1 { print $2 + 0 }')
    for directory in triage-.service.d triage.service.d; do
        rm -f "$units/$directory/10-restart-steps.conf"
        if [ "${systemd_version:-0}" -ge 254 ]; then
            install -D -m 644 "$here/drop-ins/restart-steps.conf" \
                "$units/$directory/10-restart-steps.conf"
        fi
    done
    if [ -z "$root" ]; then
        systemd-sysusers triage.conf
        systemd-tmpfiles --create triage.conf
    fi
}

# The sample becomes the configuration once; later ones are laid beside it.
install_configuration() {
    mkdir -p "$root/etc/triage"
    chmod 750 "$root/etc/triage"
    group triage "$root/etc/triage"
    target=$root/etc/triage/triage.toml
    rm -f "$target.new"
    if [ ! -e "$target" ]; then
        install -m 640 "$here/../triage.toml" "$target"
        group triage "$target"
    elif ! cmp -s "$here/../triage.toml" "$target"; then
        install -m 640 "$here/../triage.toml" "$target.new"
        group triage "$target.new"
        say "Kept /etc/triage/triage.toml; this version's sample lies beside it as triage.toml.new."
    fi
}

enable_unit() {
    unit=triage.target
    [ "$all_in_one" = no ] || unit=triage.service
    if [ -n "$root" ]; then
        [ "$all_in_one" = no ] ||
            systemctl --quiet --root="$root" disable triage.target 2>/dev/null || :
        systemctl --quiet --root="$root" enable "$unit" 2>/dev/null || :
    else
        systemctl daemon-reload
        [ "$all_in_one" = no ] || systemctl --quiet disable triage.target
        systemctl --quiet enable "$unit"
    fi
}

# What is enabled is what is to be restarted; by the pattern 'triage*' a unit that failed long ago
# would start as well, and the all-in-one and the target end each other.
restart_hint() {
    enabled=triage.target
    if [ -L "$root/etc/systemd/system/multi-user.target.wants/triage.service" ]; then
        enabled=triage.service
    fi
    [ -n "$root" ] || systemctl daemon-reload
    say "Release $1 is in place; restart the services: systemctl restart $enabled"
}

next_steps() {
    say "" "Next:"
    say "  1. editor /etc/triage/triage.toml   (receiver, peers, store, models)"
    say "  2. triage migrate                   (makes or updates the database)"
    say "  3. triage check                     (tries all that the configuration names)"
    say "  4. systemctl start $unit"
    say "  5. triage status"
}

if [ "$uninstall" = yes ]; then
    uninstall
    exit 0
fi
mkdir -p "$prefix/releases"
if [ -n "$activate" ]; then
    [ -e "$prefix/releases/$activate/bin/triage" ] ||
        fail "there is no release $activate; there are: $(ls "$prefix/releases")"
    # Units and command line call the program: each release carries its own.
    for shipped in "$prefix/releases/$activate"/lib/python3*/site-packages/triage/_shipped/deploy; do
        if [ -d "$shipped" ]; then
            here=$shipped
            install_files
        fi
    done
    switch_to "releases/$activate"
    restart_hint "$activate"
    exit 0
fi
fresh=yes
[ ! -e "$prefix/current" ] || fresh=no
if [ -n "$environment" ]; then
    environment=$(CDPATH='' cd -- "$environment" && pwd)
    [ -x "$environment/bin/triage" ] || fail "there is no bin/triage in $environment"
else
    environment=releases/$(release)
fi
install_files
install_configuration
switch_to "$environment"
if [ "$fresh" = yes ] || [ "$all_in_one" = yes ]; then enable_unit; fi
if [ "$fresh" = yes ]; then
    next_steps
else
    restart_hint "${environment#releases/}"
fi
