#!/bin/sh
# /usr/local/bin/triage: the command line for people. Root's calls run as the user of the daemon, so
# that no file of the store or the database ever belongs to root; who called is kept for decisions.
set -eu
program=/opt/triage/current/bin/triage
secrets=/etc/triage/credentials
[ "$(id -u)" -eq 0 ] || exec "$program" "$@"

export LOGNAME="${SUDO_USER:-root}" TRIAGE_CONFIG="${TRIAGE_CONFIG:-/etc/triage/triage.toml}"
PATH=$PATH:/usr/sbin:/sbin
umask 077
if [ ! -e "$secrets/database-url" ] && [ ! -e "$secrets/tls-key.pem" ]; then
    exec runuser -u triage -- "$program" "$@"
fi
# Secrets that only root can read are handed over by systemd, as they are to the services.
set -- "$program" "$@"
if [ -e "$secrets/tls-key.pem" ]; then
    # shellcheck disable=SC2016  # the inner shell expands it
    set -- /bin/sh -c 'TRIAGE_RECEIVER__KEY=$CREDENTIALS_DIRECTORY/tls-key.pem exec "$0" "$@"' "$@"
fi
if [ -e "$secrets/database-url" ]; then
    # shellcheck disable=SC2016
    set -- /bin/sh -c 'TRIAGE_DATABASE__URL_FILE=$CREDENTIALS_DIRECTORY/database-url exec "$0" "$@"' \
        "$@"
fi
for secret in database-url tls-key.pem; do
    [ ! -e "$secrets/$secret" ] || set -- "--property=LoadCredential=$secret:$secrets/$secret" "$@"
done
terminal=--pipe
if [ -t 0 ] && [ -t 1 ]; then terminal=--pty; fi
exec systemd-run --quiet --collect --wait "$terminal" --uid=triage --gid=triage \
    --property=UMask=0077 "--property=WorkingDirectory=-$PWD" --setenv=LOGNAME --setenv=TRIAGE_CONFIG \
    --setenv=TERM="${TERM:-dumb}" --setenv=NO_COLOR="${NO_COLOR:-}" "$@"
