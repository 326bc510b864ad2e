"""A declared field of a data object: its form in XML, and the texts that it allows. Pure."""

from dataclasses import dataclass
from typing import Any

from dcd.manifest.values import BadValue, Form, convert, element_of


@dataclass(frozen=True, slots=True)
class Declared:
    """A field's form in XML. `kind` is `attribute`, `text` (the element's own text), `child` (the
    text of a child element) or `children` (the texts of child elements of one name)."""

    kind: str
    doc: str
    tag: str = ""
    form: Form | None = None
    minimum: int | None = None
    maximum: int | None = None


@dataclass(frozen=True, slots=True)
class Field:
    """A declared field of a data object class, with its name, type and default."""

    name: str
    annotation: Any
    required: bool
    default: Any
    declared: Declared

    @property
    def tag(self) -> str:
        """The attribute's or child element's name."""
        return self.declared.tag or self.name

    @property
    def form(self) -> Form | None:
        """The form of its text, or of each of its texts."""
        return self.declared.form

    def parse(self, text: str) -> Any:
        """The value of the text; of `children`, that of one of them. Raises BadValue."""
        several = self.declared.kind == "children"
        value = convert(text, element_of(self.annotation) if several else self.annotation)
        # The default need not have the form.
        if self.form is not None and text != self.default:
            self.form.check(text)
        least, most = self.declared.minimum, self.declared.maximum
        if least is not None and value < least:
            raise BadValue(text, f"a whole number of at least {least}")
        if most is not None and value > most:
            raise BadValue(text, f"a whole number of at most {most}")
        return value
