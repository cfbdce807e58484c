#!/bin/sh
# Makes a throw-away machine of this one and becomes its systemd: `host.py` runs it in namespaces of its own.
# WORK: an empty folder; BINDS: lines "from:to" of folders to be seen there, for reading only.
set -eu
mount --make-rprivate /
root=$WORK/root
mkdir "$WORK/memory" "$root"

# This machine's own files; what is written to them stays in memory.
mount -t tmpfs -o mode=755 memory "$WORK/memory"
mkdir "$WORK/memory/upper" "$WORK/memory/work"
mount -t overlay -o "lowerdir=/,upperdir=$WORK/memory/upper,workdir=$WORK/memory/work" machine "$root"

mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
for folder in run tmp dev; do mount -t tmpfs -o mode=755 tmpfs "$root/$folder"; done
chmod 1777 "$root/tmp"
mkdir "$root/dev/shm" "$root/dev/pts" "$root/run/before"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=666 devpts "$root/dev/pts"
while read -r name major minor; do mknod -m 666 "$root/dev/$name" c "$major" "$minor"; done <<NODES
null 1 3
zero 1 5
full 1 7
random 1 8
urandom 1 9
tty 5 0
NODES
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"

# Control groups as this machine has them: the unified hierarchy alone, or beside those of version 1.
if [ -d /sys/fs/cgroup/unified ]; then
    mount -t tmpfs -o mode=755 tmpfs "$root/sys/fs/cgroup"
    while IFS=: read -r number controllers _; do
        case $number:$controllers in
            0:*) name=unified type=cgroup2 options=rw ;;
            *:name=*) name=${controllers#name=} type=cgroup options=none,$controllers ;;
            *) name=$controllers type=cgroup options=$controllers ;;
        esac
        mkdir "$root/sys/fs/cgroup/$name"
        mount -t "$type" -o "$options" cgroup "$root/sys/fs/cgroup/$name"
    done </proc/self/cgroup
else
    mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
fi

# Nothing is started but what a test asks for, and the journal.
units=$root/lib/systemd/system
rm -rf "$root"/etc/systemd/system/* "$root"/etc/arqd "$units"/sysinit.target.wants "$units"/timers.target.wants
rm -f "$units"/sockets.target.wants/dbus.socket "$units"/sockets.target.wants/systemd-journald-audit.socket
rm -rf "$root"/var/lib/private/arqd "$root"/var/lib/arqd "$root"/var/log/journal
: >"$root/etc/fstab"
echo machine >"$root/etc/hostname"
[ -s "$root/etc/machine-id" ] || tr -d - </proc/sys/kernel/random/uuid >"$root/etc/machine-id"
ip link set lo up

echo "$BINDS" | while IFS=: read -r from to; do
    [ -n "$from" ] || continue
    mkdir -p "$root$to"
    mount --bind "$from" "$root$to"
    mount -o remount,bind,ro "$root$to"
done

cd "$root"
pivot_root . run/before
umount -l /run/before
# Credentials reach the units by mounts that are passed on.
mount --make-rshared /
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --unit=basic.target --show-status=no
