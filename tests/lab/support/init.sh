#!/bin/sh
# First process of a lab VM, run by busybox from the initramfs (see initramfs.py), in two stages.
#
# 1. The host's root comes in over 9p, read-only and cached (uncached, Python starts three times
#    slower), and gets an overlay in memory on top: the guest may write anywhere and the host never
#    sees it. What goes back to the host is the directory `share`, a 9p mount without a cache.
# 2. In the new root: the file systems that a booted system has, loopback, the command of the share,
#    its exit code into `share/status`, power off.
#
# Every command below is busybox's own: its shell runs /proc/self/exe before it looks at PATH. So
# /proc has to be there from the first command on: the /proc of the host's root is QEMU's own.
#
# lab.conf, in the initramfs, sets RELEASE, MODULES, CONFIG, TTY and WORKDIR.
#
# With the kernel parameter `init=PROGRAM` that program becomes the new root's first process, as
# everywhere: of systemd the second stage is then the service `lab`, and the host's own units, its
# dbus apart, are not started.

give_up() {
    echo "lab: $*" >/dev/console
    poweroff -f
}

if [ "$1" != inside ]; then
    . /lab.conf
    /bin/busybox mount -t proc -o nosuid,nodev,noexec none /proc
    mount -t devtmpfs none /dev
    while read -r module; do
        insmod "/modules/$module" || give_up "cannot load $module"
    done </modules/order
    mkdir -p /host /cow /root
    mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose root /host ||
        give_up "cannot mount the host's root"
    mount -t tmpfs -o mode=755 cow /cow
    mkdir /cow/upper /cow/work
    mount -t overlay -o lowerdir=/host,upperdir=/cow/upper,workdir=/cow/work root /root ||
        give_up "cannot mount the overlay"
    mount -t tmpfs -o mode=755 run /root/run
    mkdir -p /root/run/lab/share /root/run/lock
    cp /bin/busybox /init /lab.conf /root/run/lab/
    init=$(sed -n 's/.*\binit=\([^ ]*\).*/\1/p' /proc/cmdline)
    if [ -n "$init" ]; then
        # Else systemd would take this for a container, and empty the host's /tmp, file by file.
        rm -f /root/.dockerenv
        mount -t tmpfs -o mode=1777 tmp /root/tmp
    fi
    mkdir -p /root/run/systemd/system
    cat >/root/run/systemd/system/lab.service <<UNIT
[Unit]
Description=Command of the lab
Requires=sysinit.target sockets.target
After=basic.target
FailureAction=poweroff-immediate

[Service]
ExecStart=/run/lab/busybox sh /run/lab/init inside
UNIT
    mount -o move /dev /root/dev
    mount -o move /proc /root/proc
    if [ -n "$init" ]; then
        exec /bin/busybox switch_root /root "$init" --unit=lab.service --show-status=no
    fi
    exec /bin/busybox switch_root /root /run/lab/busybox sh /run/lab/init inside
fi

. /run/lab/lab.conf
trap 'give_up "the init script ended early"' EXIT
# Those that are there already are systemd's.
provide() { mountpoint -q "$1" || { mkdir -p "$1" && mount -t "$2" -o "$3" "$2" "$1"; }; }
provide /sys sysfs nosuid,nodev,noexec
provide /dev/pts devpts gid=5,mode=620,ptmxmode=666
provide /dev/shm tmpfs mode=1777
ln -sfn /proc/self/fd /dev/fd
provide /sys/fs/cgroup cgroup2 rw
provide /sys/fs/bpf bpf rw
provide /sys/kernel/tracing tracefs rw
provide /sys/kernel/debug debugfs rw
provide /sys/kernel/security securityfs rw
# /usr/lib, because /lib is a link to it on the systems that this runs on.
mkdir -p /usr/lib/modules /boot
mount -t tmpfs -o mode=755 modules /usr/lib/modules
ln -s "$MODULES" "/usr/lib/modules/$RELEASE"
ln -sf "$CONFIG" "/boot/config-$RELEASE"
hostname agentd-lab
ip link set lo up
mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000 share /run/lab/share ||
    give_up "cannot mount the shared directory"

export HOME=/root USER=root LANG=C.UTF-8 AGENTD_LAB_SHARE=/run/lab/share
export PATH="$WORKDIR/.venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
cd "$WORKDIR" || give_up "no $WORKDIR"
if [ -n "$TTY" ]; then
    export TERM="$TTY"
    setsid -c /bin/bash /run/lab/share/command </dev/hvc0 >/dev/hvc0 2>&1
else
    /bin/bash /run/lab/share/command </dev/null >/dev/"$(basename /sys/class/virtio-ports/*)" 2>&1
fi
echo $? >/run/lab/share/status
sync
trap - EXIT
poweroff -f
