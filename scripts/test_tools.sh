#!/bin/sh
# Install the programs that tests run and no wheel brings; `make test` calls this, `make test-deploy` with "deploy". As root
# on Debian and Ubuntu what is missing is installed, elsewhere it is named.
set -eu

# A program or a file (a pattern), and Debian's package with it.
needed() {
    cat <<'LIST'
redis-server redis-server
/usr/sbin/clamd clamav-daemon
chromium-headless-shell chromium-headless-shell
/usr/lib/*/faketime/libfaketime.so.1 libfaketime
npm npm
systemd-analyze systemd
promtool prometheus
docker-compose docker-compose
LIST
    [ "${1:-}" = deploy ] && cat <<'LIST'
/usr/bin/python3 python3
unshare util-linux
ip iproute2
podman podman
buildah buildah
crun crun
catatonit catatonit
mmdebstrap mmdebstrap
LIST
    true
}

missing=$(needed "$@" | while read -r what package; do
    case $what in
        # shellcheck disable=SC2086 # the pattern is to be expanded
        /*) ls $what >/dev/null 2>&1 || echo "$package" ;;
        *) command -v "$what" >/dev/null || echo "$package" ;;
    esac
done)
[ -n "$missing" ] || exit 0
missing=$(echo $missing)

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "The tests need what these Debian packages bring: $missing. Install them, then try again." >&2
    exit 1
fi

echo "Installing $missing"
# Servers come with a service that starts at once; the tests start their own.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod +x $policy
    trap 'rm -f $policy' EXIT
fi
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
# shellcheck disable=SC2086 # a list of packages
if ! { apt-get update && apt-get install --yes --no-install-recommends $missing; } >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    exit 1
fi
rm -f "$log"
