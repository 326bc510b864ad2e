"""The manifests that `dcctl init` writes: short, commented, and built as they are. That of illumos needs
its user's publisher first.

Plain data. Tests check each with the daemon's own code.
"""

LIVE = """\
<!-- A live system of Debian for CD, DVD or USB stick, with BIOS and UEFI. `dcctl validate FILE` checks it,
     `dcctl plan FILE` shows its steps, `dcctl build FILE` builds it. Log in as live, password live. -->
<dc>
  <distro name="my-live"> <!-- the name of the ISO and of the host -->
    <software type="DEB"> <!-- from this host's apt sources; <source><repository/></source> names others -->
      <software_data> <!-- the first five make it start; add the packages that you want -->
        <name>linux-image-amd64</name> <name>systemd-sysv</name> <name>live-boot</name> <name>zstd</name>
        <name>dbus</name> <name>sudo</name> <name>iproute2</name> <name>systemd-resolved</name>
      </software_data>
    </software>
    <configuration>
      <user name="live" shell="/bin/bash"> <password>live</password> <sudo nopasswd="true"/> </user>
      <interface match="en*"/> <!-- DHCP; or dhcp="false" address="192.0.2.10/24" gateway="192.0.2.1" -->
      <!-- Files beside this manifest: <tree source="site" dest="/srv/site"/> <script source="setup.sh"/> -->
    </configuration>
  </distro>
</dc>
"""

SERVER = """\
<!-- A Debian server on a disk of 4 GB, as qcow2 for virtual machines and raw to write onto a real disk.
     `dcctl build FILE` builds it and boots it with BIOS and UEFI. Log in as admin, password change-me. -->
<dc>
  <distro name="my-server"> <!-- the name of the files and of the host -->
    <distro_spec><img_params><vm_im memory="1gb" firmware="both">
      <max_size><size val="4gb"/></max_size> <vm_format type="raw"/> <vm_format type="qcow2"/>
    </vm_im></img_params></distro_spec>
    <software type="DEB"> <!-- from this host's apt sources; <source><repository/></source> names others -->
      <software_data> <!-- what makes it start, then what makes it a server -->
        <name>linux-image-amd64</name> <name>initramfs-tools</name> <name>systemd-sysv</name>
        <name>grub-pc-bin</name> <name>grub-efi-amd64-bin</name> <name>grub2-common</name>
        <name>zstd</name> <name>dbus</name> <name>openssh-server</name>
        <name>sudo</name> <name>iproute2</name> <name>systemd-resolved</name>
      </software_data>
    </software>
    <configuration> <!-- <ssh_key source="id_ed25519.pub"/> in the user, <unit source="app.service"/> here -->
      <user name="admin" shell="/bin/bash"> <password>change-me</password> <sudo/> </user>
      <interface match="en*"/> <!-- DHCP; or dhcp="false" address="192.0.2.10/24" gateway="192.0.2.1" -->
    </configuration>
  </distro>
</dc>
"""

VM = """\
<!-- A virtual machine of Debian, as qcow2, for BIOS and UEFI. `dcctl build FILE` builds and boots it,
     and copies the files to my-vm/. Log in as vm, password vm. -->
<dc>
  <distro name="my-vm"> <!-- the name of the files and of the host -->
    <target><disk><disk_image name="my-vm.raw" size="4gb"/></disk></target>
    <software type="DEB"> <!-- from this host's apt sources; <source><repository/></source> names others -->
      <software_data> <!-- what makes it start; add the packages that you want -->
        <name>linux-image-amd64</name> <name>initramfs-tools</name> <name>systemd-sysv</name>
        <name>grub-pc-bin</name> <name>grub-efi-amd64-bin</name> <name>grub2-common</name>
        <name>zstd</name> <name>dbus</name> <name>sudo</name> <name>iproute2</name>
      </software_data>
    </software>
    <configuration> <!-- files beside this manifest: <tree source="site" dest="/srv/site"/> -->
      <user name="vm" shell="/bin/bash"> <password>vm</password> <sudo nopasswd="true"/> </user>
      <interface match="en*"/> <!-- DHCP; or dhcp="false" address="192.0.2.10/24" gateway="192.0.2.1" -->
    </configuration>
  </distro>
</dc>
"""

NETBOOT = """\
<!-- A live system of Debian that machines start through the network, with BIOS and UEFI. `dcctl build FILE`
     builds the kit for your TFTP or HTTP server, and boots it. Log in as live, password live. -->
<dc>
  <distro name="my-live"> <!-- the name of the host; the kit is my-live-netboot.tar -->
    <distro_spec><img_params><media_im type="netboot"/></img_params></distro_spec>
    <software type="DEB"> <!-- from this host's apt sources; <source><repository/></source> names others -->
      <software_data> <!-- the first five make it start; add the packages that you want -->
        <name>linux-image-amd64</name> <name>systemd-sysv</name> <name>live-boot</name> <name>zstd</name>
        <name>dbus</name> <name>sudo</name> <name>iproute2</name> <name>systemd-resolved</name>
      </software_data>
    </software>
    <configuration>
      <user name="live" shell="/bin/bash"> <password>live</password> <sudo nopasswd="true"/> </user>
      <interface match="en*"/> <!-- DHCP; or dhcp="false" address="192.0.2.10/24" gateway="192.0.2.1" -->
      <!-- Files beside this manifest: <tree source="site" dest="/srv/site"/> <script source="setup.sh"/> -->
    </configuration>
  </distro>
</dc>
"""

ROOTFS = """\
<!-- A root file system of Debian as a tar archive, for containers, chroots and network roots: without kernel,
     boot loader and init. `dcctl build FILE` builds it and copies my-rootfs.tar.zst to my-rootfs/. -->
<dc>
  <distro name="my-rootfs"> <!-- the name of the file -->
    <distro_spec><img_params>
      <rootfs_im type="tar"/> <!-- or cpio, squashfs, erofs, oci, incus, lxc, wsl -->
    </img_params></distro_spec>
    <software type="DEB"> <!-- from this host's apt sources; <source><repository/></source> names others -->
      <destination><image variant="essential"/></destination> <!-- the smallest; minbase adds apt -->
      <software_data> <!-- add the packages that you want -->
        <name>ca-certificates</name>
      </software_data>
    </software>
    <!-- <configuration> takes users, files and scripts: <tree source="app" dest="/srv/app"/> -->
  </distro>
</dc>
"""

ILLUMOS = """\
<!-- An image of illumos packages (IPS), as an archive of its files. Put your publisher in the place of
     example.org first. It needs a host with pkg(7), as `dcctl doctor` says. `dcctl build FILE` builds it and
     copies my-illumos.tar.zst to my-illumos/. docs/how-to/illumos.md describes boot archives and media. -->
<dc>
  <distro name="my-illumos">
    <software name="transfer" type="IPS">
      <source><publisher name="example.org"> <!-- your publisher, and where its packages are -->
        <origin name="https://pkg.example.org/release"/> </publisher></source>
      <software_data> <!-- the packages, and all that they depend on -->
        <name>pkg:/system/core-os</name> <name>pkg:/shell/bash</name>
      </software_data>
    </software>
    <execution> <!-- in this order; `dcctl checkpoint-types` describes all checkpoints -->
      <checkpoint name="transfer" type="TransferIPS"/>
      <checkpoint name="archive" type="RootfsArchive"/>
    </execution>
  </distro>
</dc>
"""

STARTERS = {
    "live": LIVE,
    "server": SERVER,
    "vm": VM,
    "netboot": NETBOOT,
    "rootfs": ROOTFS,
    "illumos": ILLUMOS,
}
"""The manifests by kind."""
