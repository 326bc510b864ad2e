"""The parts of an old manifest about the image except its software: build area, boot menu, accounts, profiles
of services. Pure."""

from dcd.manifest.data_object import Element
from dcd.manifest.grub_lines import kernel_arguments
from dcd.manifest.inputs import IN_IMAGE
from dcd.manifest.migrate.elements import add
from dcd.manifest.migrate.reader import Reader

_MENUS = ("img_params/grub_menu_modifications", "img_params/loader_menu_modifications")
"""The menu of GRUB, or in later manifests of the loader that replaced it."""
_PROFILES = "distro_constr_params/output_image/boot_archive/smf_service_profile/profile"


def target(reader: Reader, distro: Element) -> None:
    """The dataset to build in."""
    area = reader.text("distro_constr_params/build_area") or ""
    if area.startswith("/"):
        reader.note(
            reader.find("distro_constr_params/build_area"),
            f"the build area is the directory {area}; builds are in the daemon's state directory",
        )
        return
    pool, _, dataset = area.partition("/")
    if pool:
        logical = add(add(distro, "target", name="desired"), "logical")
        zpool = add(logical, "zpool", name=pool, action="use_existing")
        if dataset:
            add(zpool, "filesystem", name=dataset, action="preserve")


def media(reader: Reader, distro: Element) -> None:
    """The image on media: its boot menu and its maximum size."""
    medium = add(add(add(distro, "distro_spec"), "img_params"), "media_im")
    for menu in _MENUS:
        if reader.find(menu) is not None:
            _boot_menu(reader, medium, menu)
            break
    size = reader.text("img_params/pkg_image_area_max_size_gb") or "0"
    if size.strip("0."):
        add(add(medium, "max_size"), "size", val=f"{size}gb")


def users(reader: Reader, distro: Element, checkpoint: str) -> None:
    """The accounts of the image."""
    found = [*reader.each("img_params/root_user"), *reader.each("img_params/user")]
    if not found:
        return
    configuration = add(distro, "configuration", name=checkpoint, type="user")
    for element in found:
        name = "root"
        if element.tag == "user":
            name = reader.attribute_of(element, "username") or ""
        uid = reader.attribute_of(element, "UID")
        home, shell = (
            None if child is None else reader.text_of(child) or None
            for child in (element.find("homedir"), element.find("shell"))
        )
        user = add(configuration, "user", name=name, uid=uid, home=home, shell=shell)
        password = element.find("password")
        if password is not None:
            text = reader.text_of(password).strip('"')
            hashed = reader.attribute_of(password, "encrypted") == "true"
            if text:
                add(user, "password", text, hashed="true" if hashed else None)
            else:
                reader.leave(
                    password, f"the account {name} had no password, which is not supported"
                )


def profiles(reader: Reader, distro: Element, checkpoint: str) -> None:
    """The profiles of services, in the order of their application."""
    sources = [reader.text("img_params/netservices_SMF_profile")]
    if reader.find("img_params/netservices_SMF_profile") is None:
        sources = []  # the list below replaces the default
    for element in reader.each(_PROFILES):
        path = reader.attribute_of(element, "path") or ""
        from_host = reader.attribute_of(element, "use_build_sys_file") == "true"
        if not from_host and not path.startswith(IN_IMAGE):
            path = f"{{PKG_IMAGE_PATH}}{path}"
        sources.append(path)
    for source in dict.fromkeys(filter(None, sources)):
        add(distro, "configuration", name=checkpoint, type="sysconf", source=source)


def _boot_menu(reader: Reader, medium: Element, old: str) -> None:
    title = reader.text(f"{old}/title")
    timeout = reader.text(f"{old}/timeout")
    menu = add(medium, "boot_mods", title=title or None, timeout=timeout or None)
    default = reader.find(f"{old}/default_entry")
    chosen = None if default is None else reader.text_of(default)
    for element in reader.each(f"{old}/entry"):
        suffix = element.find("title_suffix")
        position = reader.attribute_of(element, "position")
        is_default = chosen is not None and chosen == position
        entry = add(
            menu,
            "boot_entry",
            default_entry="true" if is_default else None,
            insert_at="start" if position == "0" else None,
        )
        add(entry, "title_suffix", "" if suffix is None else reader.text_of(suffix))
        for line in element.findall("line"):
            _menu_line(reader, entry, line)
        if position not in (None, "0"):
            reader.note(
                element, f"the entry's position {position} in the menu; it is now at the end"
            )
        chosen = None if is_default else chosen
    if default is not None and chosen is not None:
        reader.note(
            default,
            f"the default entry is number {chosen} of the menu, which is no entry of the manifest",
            'mark an entry with default_entry="true"',
        )


def _menu_line(reader: Reader, entry: Element, line: Element) -> None:
    text = reader.text_of(line)
    arguments = kernel_arguments(text)
    if arguments is None:
        reader.note(line, f"the menu line {text!r}: entries start the image's own kernel")
    elif arguments:
        add(entry, "kernel_args", arguments)
