#!/bin/sh
# recipe.sh DIRECTORY   make disk.img, vmlinuz and initrd of the test machine there. As root.
# A small Debian 12: systemd with cgroup v2, sshd, two guards to compare with, two users. What it is
# to do comes on further disks: project.pth leads the interpreter to them, rig.service starts it.
set -eu
out=$1
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT

mmdebstrap --quiet --variant=minbase --components=main \
    --include=systemd,systemd-sysv,dbus,dbus-user-session,libpam-systemd,openssh-server,python3 \
    --include=iproute2,procps,udev,kmod,linux-image-cloud-amd64,initramfs-tools \
    --include=systemd-oomd,earlyoom \
    bookworm "$root/tree"
cd "$root/tree"

for user in lab plain; do
    chroot . useradd --create-home --shell /bin/bash "$user"
done
mkdir -p var/lib/systemd/linger opt/site opt/rig
touch var/lib/systemd/linger/lab
echo guarded >etc/hostname
printf '/opt/site\n/opt/rig\n' >usr/lib/python3/dist-packages/project.pth
cat >etc/fstab <<'FSTAB'
/dev/vdb /opt/site ext4 ro,nofail 0 0
/dev/vdc /opt/rig ext4 ro,nofail 0 0
FSTAB

# The witness: it must not be the one who is missed. Over means off, whatever went wrong.
cat >etc/systemd/system/rig.service <<'UNIT'
[Unit]
After=local-fs.target ssh.service dbus.service systemd-user-sessions.service systemd-logind.service
SuccessAction=poweroff-force
FailureAction=poweroff-force
[Service]
Type=simple
ExecStart=/usr/bin/python3 /opt/rig/guest.py /dev/ttyS1
OOMScoreAdjust=-1000
[Install]
WantedBy=multi-user.target
UNIT
# Off until a run asks for one; the watched unit is the one Fedora watches.
mkdir -p etc/systemd/system/user@.service.d
printf '[Service]\nManagedOOMMemoryPressure=kill\nManagedOOMMemoryPressureLimit=50%%\n' \
    >etc/systemd/system/user@.service.d/oomd.conf
chroot . systemctl --quiet enable rig.service ssh.service
for unit in earlyoom systemd-oomd; do
    chroot . systemctl --quiet disable "$unit.service"
done
# Nothing here needs them, and on an emulated processor each costs a second of every boot.
chroot . systemctl --quiet mask systemd-timesyncd.service apt-daily.timer apt-daily-upgrade.timer \
    e2scrub_all.timer e2scrub_reap.service fstrim.timer dpkg-db-backup.timer modprobe@.service \
    systemd-binfmt.service systemd-update-utmp.service systemd-update-utmp-runlevel.service \
    systemd-journal-flush.service systemd-random-seed.service sys-kernel-debug.mount \
    sys-kernel-tracing.mount dev-hugepages.mount dev-mqueue.mount \
    proc-sys-fs-binfmt_misc.automount getty@tty1.service serial-getty@ttyS0.service

rm -rf var/cache/apt/archives/*.deb var/lib/apt/lists/* usr/share/doc usr/share/man usr/share/locale
cp boot/vmlinuz-* "$out/vmlinuz"
cp boot/initrd.img-* "$out/initrd"
rm -f boot/initrd.img-*
mke2fs -q -t ext4 -d . -r 1 -N 0 "$out/disk.img" 1500M
chmod 0644 "$out"/*
