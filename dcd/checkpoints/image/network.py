"""The network of a Debian image: systemd-networkd, or ifupdown in an image without systemd."""

from collections.abc import Sequence
from ipaddress import ip_address, ip_interface
from pathlib import Path

from dcd.manifest.objects.configuration import Interface
from dcd.platform.inside import entry, exists, read, resolve, write
from statemachine.errors import CheckpointError

_NETWORKD = "etc/systemd/network"


def apply_network(root: Path, interfaces: Sequence[Interface]) -> list[str]:
    """Write the configuration of the interfaces. Returns the services to enable for it."""
    services: list[str] = []
    if interfaces:
        if exists(root, "usr/lib/systemd/systemd-networkd"):
            _write_networkd(root, interfaces)
            services.append("systemd-networkd.service")
        elif exists(root, "usr/sbin/ifup") or exists(root, "sbin/ifup"):
            for interface in interfaces:
                path = f"etc/network/interfaces.d/dcd-{interface.match}"
                write(root, path, _ifupdown(interface))
        else:
            raise CheckpointError(
                "the image has nothing to configure its network with",
                "neither systemd-networkd nor ifupdown is in it",
                "add the package systemd (or ifupdown) to the transfer",
            )
    if _resolver(root, interfaces):
        services.append("systemd-resolved.service")
    return services


def _write_networkd(root: Path, interfaces: Sequence[Interface]) -> None:
    """Write a file for each interface, after those of an earlier checkpoint; one for the same is replaced."""
    directory = resolve(root, _NETWORKD)
    present = sorted(directory.glob("*-dcd.network")) if directory.is_dir() else []
    number = 10 + len(present)
    for interface in interfaces:
        name = f"Name={interface.match}"
        same = (file.name for file in present if name in file.read_text("utf-8").splitlines())
        file_name = next(same, f"{number}-dcd.network")
        number += file_name.startswith(f"{number}-")
        write(root, f"{_NETWORKD}/{file_name}", _networkd(interface))


def _resolver(root: Path, interfaces: Sequence[Interface]) -> bool:
    """Write a resolv.conf. Returns whether systemd-resolved fills it."""
    servers = [server for one in interfaces for server in (one.dns or "").split()]
    domains = [domain for one in interfaces for domain in (one.domains or "").split()]
    resolved = exists(root, "usr/lib/systemd/systemd-resolved")
    if resolved:
        link = entry(root, "etc/resolv.conf")
        link.unlink(missing_ok=True)
        link.symlink_to("../run/systemd/resolve/stub-resolv.conf")
        if (servers or domains) and not exists(root, "usr/lib/systemd/systemd-networkd"):
            # It does not read the settings of ifupdown.
            text = f"[Resolve]\nDNS={' '.join(servers)}\nDomains={' '.join(domains)}\n"
            write(root, "etc/systemd/resolved.conf.d/dcd.conf", text)
    elif interfaces or not exists(root, "etc/resolv.conf"):
        # The lines of an earlier checkpoint stay.
        present = [line.split() for line in (read(root, "etc/resolv.conf") or "").splitlines()]
        before = [words[1] for words in present if words[:1] == ["nameserver"] and words[1:]]
        searched = [word for words in present if words[:1] == ["search"] for word in words[1:]]
        lines = [f"nameserver {server}" for server in dict.fromkeys([*before, *servers])]
        if searched or domains:
            lines.append(f"search {' '.join(dict.fromkeys([*searched, *domains]))}")
        write(root, "etc/resolv.conf", "".join(f"{line}\n" for line in lines))
    return resolved


def _networkd(interface: Interface) -> str:
    lines = ["[Match]", f"Name={interface.match}", "", "[Network]"]
    if interface.dhcp:
        lines.append("DHCP=yes")
    lines += [f"Address={address}" for address in (interface.address or "").split()]
    lines += [f"Gateway={gateway}" for gateway in (interface.gateway or "").split()]
    lines += [f"DNS={server}" for server in (interface.dns or "").split()]
    if interface.domains:
        lines.append(f"Domains={interface.domains}")
    return "\n".join(lines) + "\n"


def _ifupdown(interface: Interface) -> str:
    name = interface.match
    if any(mark in name for mark in "*? "):
        raise CheckpointError(
            f"ifupdown cannot configure interfaces by the pattern {name}",
            str(interface.origin or ""),
            "name the interface (eth0), or add the package systemd for systemd-networkd",
        )
    lines = [f"auto {name}"]
    if interface.dhcp:
        lines.append(f"iface {name} inet dhcp")
    routers = [ip_address(gateway) for gateway in (interface.gateway or "").split()]
    for text in (interface.address or "").split():
        address = ip_interface(text)
        lines.append(f"iface {name} {'inet' if address.version == 4 else 'inet6'} static")
        lines.append(f"    address {text}")
        lines += [f"    gateway {one}" for one in routers if one.version == address.version]
        # The second of two default routes would fail.
        routers = [one for one in routers if one.version != address.version]
    return "\n".join(lines) + "\n"
