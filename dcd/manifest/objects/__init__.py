"""Typed data objects for every section of a manifest; attributes are named as in the XML."""

from dcd.manifest.data_dict import DataObjectDict
from dcd.manifest.objects.boot import BootEntry, BootMods
from dcd.manifest.objects.configuration import (
    Configuration,
    Interface,
    Password,
    Script,
    SshKey,
    Sudo,
    Tree,
    Unit,
    User,
    Validation,
)
from dcd.manifest.objects.distro import (
    DC,
    Distro,
    DistroSpec,
    ImgParams,
    MaxSize,
    MediaIm,
    Parameter,
    Placement,
    Profile,
    Require,
    RootfsIm,
    Signing,
    VmController,
    VmFormat,
    VmIm,
    VmNetwork,
)
from dcd.manifest.objects.execution import Arg, ArgList, Args, CheckpointSpec, Execution, Kwargs
from dcd.manifest.objects.software import (
    Debconf,
    Destination,
    Dir,
    DpkgOption,
    Facet,
    Image,
    ImgType,
    Mirror,
    Origin,
    Pin,
    Property,
    Publisher,
    Repository,
    Software,
    SoftwareData,
    Source,
    Variant,
)
from dcd.manifest.objects.storage import (
    Format,
    LogicalVolume,
    Luks,
    Passphrase,
    SigningKey,
    Size,
    Subvolume,
    Verity,
    VolumeGroup,
)
from dcd.manifest.objects.target import (
    BE,
    DatasetOptions,
    Disk,
    DiskImage,
    DiskKeyword,
    DiskName,
    DiskProp,
    Filesystem,
    GptPartition,
    Iscsi,
    Logical,
    Option,
    Options,
    Partition,
    PoolOptions,
    Slice,
    Target,
    Vdev,
    Zpool,
    Zvol,
)
from dcd.manifest.registry import Registry

BUILTIN = Registry().adding(
    DC, Parameter, Profile, Distro, Placement, Require, DistroSpec, ImgParams, MediaIm, MaxSize,
    BootMods, BootEntry,
    VmIm, VmFormat, Signing, VmController, VmNetwork, RootfsIm,
    Target, Disk, DiskName, DiskProp, DiskKeyword, DiskImage, Iscsi, GptPartition, Partition,
    Slice, Size, Format, Subvolume, Luks, Passphrase, VolumeGroup, LogicalVolume, Verity,
    SigningKey, Logical, Zpool, Vdev, Filesystem, Zvol, PoolOptions, DatasetOptions,
    Options, Option, BE,
    Software, Destination, Source, Image, ImgType, Facet, Variant, Property, Dir, Publisher,
    Origin, Mirror, Repository, Pin, DpkgOption, Debconf, SoftwareData,
    Execution, CheckpointSpec, Args, Kwargs, Arg, ArgList,
    Configuration, Validation, User, Password, SshKey, Sudo, Interface, Tree, Unit, Script,
    DataObjectDict,
)  # fmt: skip
"""The registry of the project's own data objects."""

__all__ = [
    "BE", "BUILTIN", "DC", "Arg", "ArgList", "Args", "BootEntry", "BootMods", "CheckpointSpec",
    "Configuration", "DataObjectDict", "DatasetOptions", "Debconf", "Destination", "Dir", "Disk",
    "DiskImage", "DiskKeyword", "DiskName", "DiskProp", "Distro", "DistroSpec", "DpkgOption",
    "Execution", "Facet", "Filesystem", "Format", "GptPartition", "Image", "ImgParams", "ImgType",
    "Interface", "Iscsi", "Kwargs", "Logical", "LogicalVolume", "Luks", "MaxSize", "MediaIm",
    "Mirror", "Option", "Options", "Origin", "Parameter", "Partition", "Passphrase", "Password",
    "Pin", "Placement", "PoolOptions", "Profile", "Property", "Publisher", "Repository", "Require",
    "RootfsIm", "Script", "Signing", "SigningKey", "Size", "Slice", "Software", "SoftwareData", "Source",
    "SshKey", "Subvolume", "Sudo", "Target", "Tree", "Unit", "User", "Validation", "Variant", "Vdev",
    "Verity", "VmController", "VmFormat", "VmIm", "VmNetwork", "VolumeGroup", "Zpool", "Zvol",
]  # fmt: skip
