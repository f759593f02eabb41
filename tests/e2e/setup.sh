#!/bin/sh
# Installs from Debian what the tests of real pods need (needs root): a container runtime, its network plug-ins, what
# builds images, Prometheus. Nothing that is installed here is started, now or at the next boot.
set -eu

packages="buildah conntrack containerd containernetworking-plugins debootstrap iproute2 iptables prometheus runc"
services="containerd prometheus"
policy=/usr/sbin/policy-rc.d # Debian asks this script whether a package may start its service

say() { printf '%s\n' "$*" >&2; }
installed() { dpkg-query --show --showformat '${db:Status-Status}' "$1" 2>/dev/null | grep -qx installed; }

missing=
for package in $packages; do
    installed "$package" || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
[ "$(id -u)" -eq 0 ] || { say "make e2e-setup installs Debian packages ($missing ), which needs root."; exit 1; }

new=
for service in $services; do
    installed "$service" || new="$new $service"
done
if [ ! -e $policy ]; then
    trap 'rm -f $policy' EXIT
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod 755 $policy
fi

say "Installing from Debian:$missing..."
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086 # the lists are words
apt-get install -qq -y --no-install-recommends $packages >/dev/null
for service in $new; do
    [ ! -d /run/systemd/system ] || systemctl disable --quiet --now "$service"
done
