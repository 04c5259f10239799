# The rest of an instance's user data: `mrfast cluster up` writes the settings above it. Runs once, as root, on Debian 12.
# shellcheck shell=bash disable=SC2154
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive HOME=/root

home=/opt/mrfast
state=/var/lib/mrfast

say() { echo "mrfast-boot: $*"; }
trap 'say "FAILED in line $LINENO; idle machines still end after $idle_minutes minutes"' ERR

# Before anything can fail: a machine on which nothing works ends, too.
install_idle_timer() {
    mkdir -p /run/mrfast "$state"
    touch "$state/busy"
    cat >/etc/systemd/system/mrfast-idle.service <<UNIT
[Unit]
Description=End this machine when it has been idle for $idle_minutes minutes
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'if [ -n "\$(find $state/busy -mmin +$idle_minutes)" ]; then systemctl poweroff; fi'
UNIT
    cat >/etc/systemd/system/mrfast-idle.timer <<UNIT
[Unit]
Description=Look every minute whether this machine is idle
[Timer]
OnBootSec=60
OnUnitActiveSec=60
[Install]
WantedBy=timers.target
UNIT
    systemctl daemon-reload
    systemctl enable --now mrfast-idle.timer
}

install_packages() {
    local try
    for try in 1 2 3 4 5; do
        if apt-get update -q && apt-get install -qy --no-install-recommends -o DPkg::Lock::Timeout=300 \
            ca-certificates gcc libc6-dev python3 python3-dev python3-venv; then
            return
        fi
        say "apt-get failed, try $try"
        sleep 10
    done
    return 1
}

install_mrfast() {
    local what=$package
    [ -x "$home/bin/python" ] || python3 -m venv "$home"
    "$home/bin/pip" install -q --disable-pip-version-check boto3
    if [ -n "$package_key" ]; then
        what=/tmp/${package_key##*/}
        "$home/bin/python" - "$bucket" "$package_key" "$what" <<'PYTHON'
import sys

import boto3

boto3.client("s3").download_file(*sys.argv[1:])
PYTHON
    fi
    "$home/bin/pip" install -q --disable-pip-version-check "$what" || return 1
    # Quicker where they are there for this machine; a job does without them.
    "$home/bin/pip" install -q --disable-pip-version-check backports.zstd isal || say "no zstd and isal here"
}

install_units() {
    id -u mrfast >/dev/null 2>&1 || useradd --system --home-dir "$state" --shell /usr/sbin/nologin mrfast
    chown -R mrfast: "$state"
    cat >/etc/mrfast.env <<ENV
AWS_REGION=$region
AWS_DEFAULT_REGION=$region
ENV
    cat >/etc/systemd/system/mrfast.service <<UNIT
[Unit]
Description=mrfast $role of the cluster $name
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0
[Service]
User=mrfast
EnvironmentFile=/etc/mrfast.env
WorkingDirectory=$state
ExecStart=$home/bin/python -m mrfast.cluster.host $role --name $name --bucket $bucket --state $state
Restart=always
RestartSec=5
KillMode=mixed
TimeoutStopSec=110
NoNewPrivileges=yes
ProtectSystem=strict
ReadWritePaths=$state
ProtectHome=yes
PrivateTmp=yes
StandardOutput=journal+console
StandardError=journal+console
[Install]
WantedBy=multi-user.target
UNIT
    cat >/etc/systemd/system/mrfast-spot.service <<UNIT
[Unit]
Description=Drain mrfast when EC2 says that it takes this spot machine back
After=mrfast.service
[Service]
ExecStart=$home/bin/python -m mrfast.cluster.spot -- systemctl stop mrfast.service
Restart=on-failure
RestartSec=5
StandardOutput=journal+console
StandardError=journal+console
[Install]
WantedBy=multi-user.target
UNIT
    systemctl daemon-reload
    systemctl enable --now mrfast.service
    [ -z "$spot" ] || systemctl enable --now mrfast-spot.service
}

# For `aws ssm start-session`: Debian's image has no agent. Without it everything works but the port forward.
install_ssm_agent() {
    local file=/tmp/amazon-ssm-agent.deb url
    url="https://s3.$region.amazonaws.com/amazon-ssm-$region/latest/debian_$(dpkg --print-architecture)/amazon-ssm-agent.deb"
    "$home/bin/python" -c 'import sys, urllib.request as u; u.urlretrieve(*sys.argv[1:])' "$url" "$file" &&
        dpkg -i "$file" && systemctl enable --now amazon-ssm-agent
}

say "$role of $name"
install_idle_timer
install_packages
install_mrfast
install_units
if [ -n "$ssm_agent" ]; then
    install_ssm_agent || say "no SSM agent: no port forward to this machine"
fi
say "done"
