#!/bin/sh
# Say what this machine is like, in lines "WHAT VALUE". Changes nothing, and needs neither Python nor packages.
# The first argument is the time on the machine that runs Ansible.
set -u
say() { printf '%s %s\n' "$1" "$2"; }

say asked "$1"
say clock "$(date +%s)"
say user "$(id -u)"
say processor "$(uname -m)"
# shellcheck source=/dev/null
say system "$(. /etc/os-release && echo "$ID ${VERSION_ID:-}")"
if [ -x /usr/bin/python3 ]; then
    say python yes
    /usr/bin/python3 -c 'import apt' 2>/dev/null && say python_apt yes
fi
say memory_kilobytes "$(awk '$1 == "MemTotal:" { print $2 }' /proc/meminfo)"
for folder in /var/lib/docker /var/lib; do
    [ -d "$folder" ] || continue
    say free_kilobytes "$(df -Pk "$folder" | awk 'NR == 2 { print $4 }')"
    break
done
[ -d /etc/idl_hub ] && say ours yes
say control_groups "$(stat -f -c %T /sys/fs/cgroup 2>/dev/null)"

cards=0
for device in /sys/bus/pci/devices/*; do
    # NVIDIA's, and something that shows pictures or computes.
    [ "$(cat "$device/vendor" 2>/dev/null)" = 0x10de ] || continue
    case $(cat "$device/class" 2>/dev/null) in 0x03*) cards=$((cards + 1)) ;; esac
done
say cards "$cards"
say driver "$(cat /sys/module/nvidia/version 2>/dev/null)"
if [ -e /usr/bin/nvidia-smi ] && ! dpkg -S /usr/bin/nvidia-smi >/dev/null 2>&1 &&
    ! dpkg-divert --list /usr/bin/nvidia-smi 2>/dev/null | grep -q . && [ ! -L /usr/bin/nvidia-smi ]; then
    say driver_by_hand yes
fi

# Program and port, for each port somebody listens on.
ss -Hltnp 2>/dev/null | while read -r _ _ _ address _ users; do
    program=${users#*\"}
    say listens "${address##*:} ${program%%\"*}"
done
exit 0
