#!/bin/sh
# Boot systemd as PID 1 of a machine of its own: namespaces for mounts, processes, network, IPC and
# host name, an overlay over this root that forgets everything, a cgroup beside the others. Runs the
# scenario there and ends. Nothing outside is changed. Exit 77: not possible here.
#
#   boot.sh DIRECTORY PYTHON REPOSITORY SITE_PACKAGES     (by root)
#
# DIRECTORY gets facts.json, log and console.
set -eu
cannot() { echo "$*" >&2; exit 77; }
directory=$1 python=$2 repository=$3 packages=$4

if [ "${5:-}" = "" ]; then
    # Outside: a cgroup of its own, which systemd will see as the root of all.
    if [ "${TRIAGE_BOOT_MOUNTS:-}" = "" ]; then
        TRIAGE_BOOT_MOUNTS=own exec unshare --mount "$0" "$@" || cannot "no mount namespace"
    fi
    mkdir -p "$directory/cgroup"
    mount -t cgroup2 none "$directory/cgroup" || cannot "no unified cgroups"
    group=$directory/cgroup/triage-boot-$$
    mkdir "$group" || cannot "no cgroup"
    echo $$ >"$group/cgroup.procs" || cannot "no cgroup"
    code=0
    unshare --mount --pid --uts --ipc --net --cgroup --fork --kill-child=KILL \
        "$0" "$@" inside >"$directory/console" 2>&1 || code=$?
    echo $$ >"$directory/cgroup/cgroup.procs"
    find "$group" -depth -type d -exec rmdir {} + || :
    umount "$directory/cgroup"
    exit "$code"
fi

# Inside: a root that forgets.
mount --make-rprivate /
mkdir -p "$directory/boot"
mount -t tmpfs none "$directory/boot"
cd "$directory/boot"
mkdir upper work root
mount -t overlay overlay -o lowerdir=/,upperdir=upper,workdir=work root || cannot "no overlay"
mount -t proc proc root/proc
mount -t sysfs sysfs root/sys
mount -t cgroup2 none root/sys/fs/cgroup
for place in run tmp; do mount -t tmpfs none root/$place; done
mount -t tmpfs -o mode=755 none root/dev
for device in null zero full random urandom tty; do
    touch root/dev/$device
    mount --bind /dev/$device root/dev/$device
done
mkdir root/dev/shm root/dev/pts
mount -t tmpfs none root/dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts root/dev/pts
ln -s pts/ptmx root/dev/ptmx
ln -s /proc/self/fd root/dev/fd
ip link set lo up
ip address add 10.1.2.3/32 dev lo
ip address add 203.0.113.5/32 dev lo
hostname triage-boot

# A quiet system: no units but its own basic ones and ours.
etc=root/etc/systemd/system
rm -rf $etc/*.wants root/usr/local/lib/systemd
for unit in systemd-udevd systemd-udev-trigger systemd-timesyncd systemd-logind systemd-resolved \
    systemd-networkd systemd-modules-load systemd-sysctl systemd-random-seed systemd-remount-fs \
    systemd-update-utmp; do
    ln -sf /dev/null $etc/$unit.service
done
for socket in control kernel; do ln -sf /dev/null $etc/systemd-udevd-$socket.socket; done
: >root/etc/fstab
echo 0123456789abcdef0123456789abcdef >root/etc/machine-id
rm -rf root/var/log/journal root/opt/triage root/etc/triage root/var/lib/triage
mkdir -p root/opt/source root/opt/packages root/opt/environment/bin root/opt/slow root/run/out
mount --bind "$repository" root/opt/source
mount --bind "$packages" root/opt/packages
mount --bind "$directory" root/run/out
cat >root/opt/environment/bin/triage <<END
#!/bin/sh
export PYTHONPATH=\${SLOW_PATH:-}:/opt/source:/opt/packages PYTHONDONTWRITEBYTECODE=1
exec $python -m triage "\$@"
END
chmod 755 root/opt/environment/bin/triage
cat >$etc/scenario.service <<END
[Unit]
After=basic.target dbus.service
Wants=dbus.service
[Service]
Type=oneshot
TimeoutStartSec=240
Environment=PYTHONPATH=/opt/source:/opt/packages PYTHONDONTWRITEBYTECODE=1
WorkingDirectory=/opt/source
ExecStart=$python -m tests.deploy.scenario /run/out/facts.json
ExecStopPost=/bin/systemctl --force --force exit
StandardOutput=file:/run/out/log
StandardError=file:/run/out/log
END
cd root
mkdir -p old
pivot_root . old
umount -l /old
mount --make-rshared / # systemd hands credentials over by mounts that propagate
export container=triage-boot
exec /lib/systemd/systemd --unit=scenario.service --show-status=no --log-target=console
