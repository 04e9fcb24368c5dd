#!/bin/bash
# Second program of the guest: a pure cgroup v2 machine that runs /run/command and gives back what
# it leaves in $RESULTS. Of the host's files all are seen and none can be changed.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export HOME=/root LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1 PYTEST_DISABLE_PLUGIN_AUTOLOAD=1
export RESULTS=/run/results
mkdir -p $RESULTS /dev/pts
mount -t devpts devpts /dev/pts
mount -t bpf bpf /sys/fs/bpf
mount -t tracefs tracefs /sys/kernel/tracing
mount -t cgroup2 cgroup2 /sys/fs/cgroup
echo "+cpu +memory +io +pids" >/sys/fs/cgroup/cgroup.subtree_control
ip link set lo up

# Modules are not in /lib/modules, neither for us nor for the kernel that wants one.
printf '#!/bin/sh\nexec /sbin/modprobe -d "%s" "$@"\n' "$KPOD_MODULES" >/run/modprobe
chmod +x /run/modprobe
echo /run/modprobe >/proc/sys/kernel/modprobe
/run/modprobe virtio_blk

cd "$KPOD_TREE" || exit
bash /run/command </dev/null
echo $? >$RESULTS/status
tar -C $RESULTS -cf /dev/vda .
sync
echo o >/proc/sysrq-trigger
while :; do :; done # no program can be started any more: the root is gone before the power
