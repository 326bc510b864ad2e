"""Data objects of `execution`: the checkpoints, in order, with their constructors."""

from typing import Literal

from dcd.manifest import forms
from dcd.manifest.data_object import DataObject, attribute, items, many, optional, some, text


class Args(DataObject, tag="args"):
    """The positional argument, as one text."""

    text: str = text("The argument; for a list, words quoted as for a shell.", form=forms.ARGUMENT)


class Arg(DataObject, tag="arg"):
    """A keyword argument."""

    name: str = attribute("The argument's name.", form=forms.LINE)
    text: str = text("Its value.", default="", form=forms.ARGUMENT)


class ArgList(DataObject, tag="arglist"):
    """A keyword argument that is a list."""

    name: str = attribute("The argument's name.", form=forms.LINE)
    argitems: tuple[str, ...] = items("argitem", "One value.", form=forms.ARGUMENT)


class Kwargs(DataObject, tag="kwargs", content=(many(Arg), many(ArgList))):
    """The keyword arguments."""


class CheckpointSpec(DataObject, tag="checkpoint", content=(optional(Args), optional(Kwargs))):
    """One step of the build and the constructor of its checkpoint."""

    name: str = attribute("Its name, unique in the manifest.", form=forms.CHECKPOINT_NAME)
    desc: str | None = attribute(
        "A one-line description, for lists.", default=None, form=forms.DESCRIPTION
    )
    type: str | None = attribute(
        "The class alone, in place of `mod_path` and `checkpoint_class`; `media.VerifyBoot` names its "
        "package too.",
        default=None,
        form=forms.LINE,
    )
    mod_path: str = attribute("The module, with slashes or dots.", default="", form=forms.LINE)
    checkpoint_class: str = attribute(
        "The class, or a function that returns a checkpoint.", default="", form=forms.LINE
    )
    log_level: Literal["debug", "info", "warning", "error", "critical"] | None = attribute(
        "The level of its log. Not part of the checkpoint's key.", default=None
    )

    @property
    def args(self) -> tuple[str, ...]:
        """The positional arguments: one or none."""
        return tuple(found.text for found in self.get_children(class_type=Args))

    @property
    def kwargs(self) -> dict[str, str | list[str]]:
        """The keyword arguments: a text from each arg, a list from each arglist."""
        given: dict[str, str | list[str]] = {}
        for found in self.get_descendants(class_type=DataObject):
            if isinstance(found, Arg):
                given[found.name] = found.text
            elif isinstance(found, ArgList):
                given[found.name] = list(found.argitems)
        return given


class Execution(DataObject, tag="execution", content=(some(CheckpointSpec),)):
    """The checkpoints, in their order."""

    stop_on_error: bool = attribute(
        "Stop at the first checkpoint that fails (dcd always does).", default=True
    )
