#!/bin/sh
# Makes a place where podman builds images and runs pods, and stays: `host.py` runs it in namespaces of its own.
# WORK: an empty folder, in which images are kept.
set -eu
mount --make-rprivate /
mount -t proc proc /proc
# crun takes the unified hierarchy, or those of version 1 alone, and not both beside each other.
if [ -d /sys/fs/cgroup/unified ]; then
    umount -l /sys/fs/cgroup
    mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
    while IFS=: read -r number controllers _; do
        [ "$number" != 0 ] || continue
        case $controllers in
            name=*) options=none,$controllers ;;
            *) options=$controllers ;;
        esac
        mkdir "/sys/fs/cgroup/${controllers#name=}"
        mount -t cgroup -o "$options" cgroup "/sys/fs/cgroup/${controllers#name=}"
    done </proc/self/cgroup
fi
mount -t tmpfs -o mode=755 tmpfs /run
mkdir "$WORK/storage"
mount -t tmpfs -o mode=755 tmpfs "$WORK/storage"
cat >"$WORK/storage.conf" <<CONF
[storage]
driver = "overlay"
graphroot = "$WORK/storage/images"
runroot = "$WORK/storage/run"
CONF
cat >"$WORK/containers.conf" <<CONF
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "crun"
[containers]
default_sysctls = []
CONF
ip link set lo up
exec sleep 3600
