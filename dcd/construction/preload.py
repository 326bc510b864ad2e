"""What a process loads before it forks others, which then start within milliseconds.

Workers are forked from `dcd.worker.zygote`, planners from `dcd.planner.forker`. Both load the project's code;
that of plug-ins and users is loaded by the processes that need it.
"""

import gc
from importlib import import_module

from dcd.construction.constructors import GROUP, own_modules
from dcd.manifest import plugins
from dcd.manifest.canonical import restore
from dcd.manifest.data_object import fields_of
from dcd.manifest.objects import BUILTIN

_SAMPLE = (
    '<dc><distro name="sample"><execution><checkpoint name="one" mod_path="dcd/checkpoints/'
    'custom_script" checkpoint_class="CustomScript"><args>true</args></checkpoint></execution></distro></dc>'
)
"""Restoring it compiles the patterns that every manifest needs."""


def preload() -> None:
    """Import the project's checkpoints, and look up what nearly every manifest needs."""
    for module in own_modules():
        import_module(module)
    for cls in BUILTIN.classes:
        fields_of(cls)
    rehearse()
    for group in (GROUP, plugins.GROUP):
        plugins.plugin_entries(group)
    # What exists now is not looked at again, so that the forked processes share its memory.
    gc.collect()
    gc.freeze()


def rehearse() -> None:
    """Do what every attempt does first. In a forked process, the memory that it touches is its own from then
    on."""
    restore(_SAMPLE, registry=BUILTIN)
