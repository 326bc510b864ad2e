#!/bin/sh
# Runs inside a minimal Debian as root: installs /dcd.deb, uses what it installs, purges it, and fails when
# anything is missing, wrong or left behind. Needs what the package depends on, and no network.
set -eu

listing() {
    find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /run \) -prune -o -print |
        grep -v -e __pycache__ -e '^/var/log/' -e '^/listing' | sort
}

listing >/listing.before
dpkg --install /dcd.deb

getent group dcd
for page in man1/dcctl.1 man5/dcd.toml.5 man8/dcd.8; do
    test -s "/usr/share/man/$page.gz"
done
test -s /usr/share/bash-completion/completions/dcctl
test -s /usr/share/zsh/vendor-completions/_dcctl
test -s /usr/share/fish/vendor_completions.d/dcctl.fish
test -L /etc/systemd/system/multi-user.target.wants/dcd.service
test -L /etc/systemd/system/sockets.target.wants/dcd.socket
distro_const --help >/dev/null
dcd config --config /etc/dcd/dcd.toml >/dev/null
getent passwd dcd | grep -v ":$(getent group dcd | cut -d: -f3):"
test "$(stat -c %a /etc/dcd/secrets)" = 711

# A script outside the image is refused even to root, until the settings say who may run code.
echo 'host_code = ["root"]' >>/etc/dcd/dcd.toml

dcd serve --config /etc/dcd/dcd.toml >/listing.log 2>&1 &
daemon=$!
tries=0
until dcctl version >/dev/null 2>&1; do
    tries=$((tries + 1))
    test $tries -lt 150 || { cat /listing.log; exit 1; }
    sleep 0.2
done
dcctl version
stat -c '%U:%G %a %n' /run/dcd /run/dcd/dcd.sock /var/lib/dcd
cat >/listing.xml <<MANIFEST
<dc><distro name="small"><execution><checkpoint name="one" mod_path="dcd/checkpoints/custom_script"
 checkpoint_class="CustomScript"><args>echo hello</args></checkpoint></execution></distro></dc>
MANIFEST
dcctl submit --follow /listing.xml || { cat /listing.log; exit 1; }
dcctl metrics | grep '^dcd_builds{state="completed"} 1.0$'
kill $daemon
wait $daemon

dpkg --purge dcd
listing >/listing.after
diff /listing.before /listing.after
echo clean
