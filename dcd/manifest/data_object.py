"""Data objects: the typed nodes of the DOC, each declared once.

A class declares its element (`tag=`), its attributes and text children as annotated fields, and the data
objects allowed in it (`content=`). Reading, writing, comparing, the grammar and the reference derive from
that declaration. An object knows its parent, its children in document order and its origin in the source;
the origin is no part of equality or of the XML. A tree belongs to one thread.

Source: the Caiman Unified Design's DataObject (`can_handle`, `from_xml`, `to_xml`, children by name).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from typing import Any, ClassVar, Self, TypeVar, dataclass_transform, get_type_hints, overload

from lxml import etree

from dcd.manifest.fields import Declared, Field
from dcd.manifest.values import BadValue, Form, written

Element = etree._Element
Object = TypeVar("Object", bound="DataObject")


@dataclass(frozen=True, slots=True)
class Origin:
    """The place of a data object in the source: file, line and column, both from 1."""

    file: str
    line: int
    column: int = 1

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


def _declare(default: Any, kind: str, doc: str, *facts: Any) -> Any:
    return field(default=default, metadata={"xml": Declared(kind, doc, *facts)})


def attribute(
    doc: str,
    *,
    default: Any = MISSING,
    form: Form | None = None,
    minimum: int | None = None,
    maximum: int | None = None,
) -> Any:
    """A field that is an attribute of the element, required unless it has a default. `form` is that of a
    text, `minimum` and `maximum` are the limits of a number."""
    return _declare(default, "attribute", doc, "", form, minimum, maximum)


def text(doc: str, *, default: Any = MISSING, form: Form | None = None) -> Any:
    """A field that is the element's text, without white space around it."""
    return _declare(default, "text", doc, "", form)


def child(doc: str, *, default: Any = MISSING, form: Form | None = None) -> Any:
    """A field that is the text of the child element of the field's name."""
    return _declare(default, "child", doc, "", form)


def items(tag: str, doc: str, *, default: tuple[str, ...] = (), form: Form | None = None) -> Any:
    """A field that is the tuple of the texts, each of the form, of all child elements `tag`."""
    return _declare(default, "children", doc, tag, form)


@dataclass_transform(
    kw_only_default=True, eq_default=False, field_specifiers=(field, attribute, text, child, items)
)
class _Declarative:
    def __init_subclass__(cls) -> None:
        dataclass(kw_only=True, eq=False, repr=False)(cls)


@dataclass(frozen=True, slots=True)
class Particle:
    """Data objects of class `of` inside another: at least `minimum`, at most `maximum` (None: any)."""

    of: "type[DataObject]"
    minimum: int = 0
    maximum: int | None = None


@dataclass(frozen=True, slots=True)
class OneOf:
    """Only one of the particles may be present; with `required`, one of them must."""

    options: tuple[Particle, ...]
    required: bool = False


def one(of: "type[DataObject]") -> Particle:
    """Exactly one."""
    return Particle(of, 1, 1)


def optional(of: "type[DataObject]") -> Particle:
    """None or one."""
    return Particle(of, 0, 1)


def some(of: "type[DataObject]") -> Particle:
    """One or more."""
    return Particle(of, 1, None)


def many(of: "type[DataObject]") -> Particle:
    """Any number."""
    return Particle(of, 0, None)


class DataObject(_Declarative):
    """Base of all data objects. Constructed with its fields as keywords.

    `name` is the element's `name` attribute where it has one, else the element's tag.
    """

    TAG: ClassVar[str] = ""
    CONTENT: ClassVar[tuple[Particle | OneOf, ...]] = ()
    PRIORITY: ClassVar[int] = 50
    EXTENDS: ClassVar[tuple[str, ...]] = ()
    SECRETS: ClassVar[tuple[str, ...]] = ()
    """Fields that only their supplier may see (`dcd.manifest.withheld`)."""

    name: str = ""
    origin: Origin | None = None
    places: Mapping[str, Sequence[Origin]] = field(init=False, default_factory=dict)
    """The places of the fields, by their tags; see `place_of`."""
    _children: "list[DataObject]" = field(init=False, default_factory=list)
    _parent: "DataObject | None" = field(init=False, default=None)
    _found: "dict[type[DataObject], dict[str | None, list[DataObject]]]" = field(
        init=False, default_factory=dict
    )
    """The descendants by class and name (None: all of the class), as far as they were asked for."""

    def __init_subclass__(
        cls,
        *,
        tag: str = "",
        content: tuple[Particle | OneOf, ...] = (),
        priority: int = 50,
        extends: tuple[str, ...] = (),
    ) -> None:
        """`priority` (0..100) decides between classes that can handle the same element, lowest first.
        `extends` names elements that allow the class in addition to their declared content."""
        if not 0 <= priority <= 100:
            raise ValueError(f"{cls.__name__}: priority {priority} is not within 0..100")
        super().__init_subclass__()
        cls.TAG, cls.CONTENT, cls.PRIORITY, cls.EXTENDS = tag, content, priority, extends

    def __post_init__(self) -> None:
        self.name = self.name or self.TAG

    def __setattr__(self, attribute: str, value: object) -> None:
        super().__setattr__(attribute, value)
        if attribute == "name" and self._parent is not None:
            self._parent._forget_descendants()

    # Reading and writing

    @classmethod
    def can_handle(cls, element: Element) -> bool:
        """Whether this class can import the element."""
        return bool(cls.TAG) and element.tag == cls.TAG

    @classmethod
    def from_xml(cls, element: Element) -> Self:
        """The data object of the element, without its child objects. Raises BadValue for an attribute
        that is missing, malformed or unknown."""
        values: dict[str, Any] = {}
        attributes = {f.tag for f in fields_of(cls) if f.declared.kind == "attribute"}
        for name in map(str, element.attrib):
            if name not in attributes:
                raise BadValue(name, f"an attribute of <{element.tag}>")
        for known in fields_of(cls):
            given = _texts(known, element)
            if known.declared.kind == "children":
                values[known.name] = tuple(known.parse(text) for text in given)
            elif given:
                values[known.name] = known.parse(given[0])
            elif known.required:
                raise BadValue("", f"given: <{element.tag}> needs {known.tag}")
        return cls(**values)

    def to_xml(self) -> Element | None:
        """The element of this object without its children, or None when it has no XML. Includes
        defaults, so that a stored document keeps its meaning when a later version has other defaults."""
        element = etree.Element(self.TAG)
        for known in fields_of(type(self)):
            value = getattr(self, known.name)
            if value is None or (known.name == "name" and not known.required and value == self.TAG):
                continue
            match known.declared.kind:
                case "attribute":
                    element.set(known.tag, written(value))
                case "text":
                    element.text = written(value)
                case "child":
                    etree.SubElement(element, known.tag).text = written(value)
                case "children":
                    for item in value:
                        etree.SubElement(element, known.tag).text = item
        return element

    @classmethod
    def consumes(cls, element: Element) -> bool:
        """Whether `from_xml` reads this child element, which therefore is no object."""
        return any(
            known.tag == element.tag and known.declared.kind in ("child", "children")
            for known in fields_of(cls)
        )

    def place_of(self, tag: str, index: int = 0) -> Origin | None:
        """The place of the attribute or child element `tag` (of several children, number `index`), or
        that of the object if it is not known."""
        found = self.places.get(tag, ())
        return found[index] if index < len(found) else self.origin

    # The tree

    @property
    def parent(self) -> "DataObject | None":
        """The object that contains this one."""
        return self._parent

    @property
    def root(self) -> "DataObject":
        """The outermost ancestor, or the object itself."""
        return self if self._parent is None else self._parent.root

    @property
    def children(self) -> "list[DataObject]":
        """The objects in this one, in document order (a copy)."""
        return list(self._children)

    @overload
    def get_children(self, name: str | None = None) -> "list[DataObject]": ...
    @overload
    def get_children(
        self, name: str | None = None, class_type: type[Object] = ...
    ) -> list[Object]: ...
    def get_children(self, name: str | None = None, class_type: Any = None) -> Any:
        """Children of that name and class (both, when both are given)."""
        return [child for child in self._children if _matches(child, name, class_type)]

    @overload
    def get_first_child(self, name: str | None = None) -> "DataObject | None": ...
    @overload
    def get_first_child(
        self, name: str | None = None, class_type: type[Object] = ...
    ) -> Object | None: ...
    def get_first_child(self, name: str | None = None, class_type: Any = None) -> Any:
        """The first child of that name and class, or None."""
        return next((child for child in self._children if _matches(child, name, class_type)), None)

    @overload
    def get_descendants(
        self,
        name: str | None = None,
        *,
        max_depth: int | None = None,
        max_count: int | None = None,
    ) -> "list[DataObject]": ...
    @overload
    def get_descendants(
        self,
        name: str | None = None,
        class_type: type[Object] = ...,
        max_depth: int | None = None,
        max_count: int | None = None,
    ) -> list[Object]: ...
    def get_descendants(
        self,
        name: str | None = None,
        class_type: Any = None,
        max_depth: int | None = None,
        max_count: int | None = None,
    ) -> Any:
        """Descendants of that name and class in document order; children have depth 1. `max_depth` and
        `max_count` are at least 1 or None (ValueError). With a class and without `max_depth`, the search is
        done once."""
        for limit in (max_depth, max_count):
            if limit is not None and limit < 1:
                raise ValueError(f"a limit of {limit} finds nothing; it must be at least 1")
        if max_depth is None and class_type is not None:
            return self._descendants(class_type).get(name, [])[:max_count]
        found: list[DataObject] = []
        for candidate in self._walk(max_depth):
            if _matches(candidate, name, class_type):
                found.append(candidate)
                if len(found) == max_count:
                    break
        return found

    def _descendants(
        self, class_type: "type[DataObject]"
    ) -> "Mapping[str | None, list[DataObject]]":
        if class_type not in self._found:
            every = [one for one in self._walk(None) if isinstance(one, class_type)]
            known: dict[str | None, list[DataObject]] = {None: every}
            for one in every:
                known.setdefault(one.name, []).append(one)
            self._found[class_type] = known
        return self._found[class_type]

    def _forget_descendants(self) -> None:
        """Discard what is known of the descendants of this object and of all that contain it."""
        holder: DataObject | None = self
        while holder is not None:
            holder._found = {}
            holder = holder._parent

    def _walk(self, depth: int | None) -> "Iterator[DataObject]":
        for candidate in self._children:
            yield candidate
            if depth is None or depth > 1:
                yield from candidate._walk(None if depth is None else depth - 1)

    def insert_children(
        self,
        children: "DataObject | Iterable[DataObject]",
        before: "DataObject | None" = None,
        after: "DataObject | None" = None,
    ) -> None:
        """Insert objects at the end, or before or after a child. Raises ValueError when one already has a
        parent, would contain itself, or `before`/`after` is no child."""
        new = [children] if isinstance(children, DataObject) else list(children)
        if before is not None and after is not None:
            raise ValueError("insert either before or after an object, not both")
        place = len(self._children)
        if before is not None:
            place = self._index(before)
        elif after is not None:
            place = self._index(after) + 1
        for candidate in new:
            if candidate._parent is not None:
                raise ValueError(f"{candidate!r} is already in {candidate._parent!r}")
            if candidate is self.root:
                raise ValueError(f"{candidate!r} cannot be inserted into itself")
        if len({id(candidate) for candidate in new}) < len(new):
            raise ValueError("an object can be inserted only once")
        for candidate in new:
            candidate._parent = self
        self._children[place:place] = new
        self._forget_descendants()

    def delete_children(
        self,
        children: "DataObject | Iterable[DataObject] | None" = None,
        name: str | None = None,
        class_type: "type[DataObject] | None" = None,
    ) -> None:
        """Delete the given children, or those of that name and class (all, without arguments). Raises
        ValueError when one of the given objects is no child."""
        if children is None:
            doomed = [child for child in self._children if _matches(child, name, class_type)]
        else:
            doomed = [children] if isinstance(children, DataObject) else list(children)
        for candidate in doomed:
            if candidate._parent is not self:
                raise ValueError(f"{candidate!r} is no child of {self!r}")
        gone = {id(candidate) for candidate in doomed}
        self._children = [child for child in self._children if id(child) not in gone]
        for candidate in doomed:
            candidate._parent = None
        self._forget_descendants()

    def delete(self) -> None:
        """Remove this object from its parent."""
        if self._parent is not None:
            self._parent.delete_children(self)

    def _index(self, wanted: "DataObject") -> int:
        for index, candidate in enumerate(self._children):
            if candidate is wanted:
                return index
        raise ValueError(f"{wanted!r} is no child of {self!r}")

    # Comparing

    def __eq__(self, other: object) -> bool:
        """The same class, fields and children, wherever they were written."""
        if type(other) is not type(self):
            return NotImplemented
        mine = {
            f.name: getattr(self, f.name) for f in fields(self) if f.init and f.name != "origin"
        }
        return self._children == other._children and all(
            getattr(other, name) == value for name, value in mine.items()
        )

    def __repr__(self) -> str:
        where = f" at {self.origin}" if self.origin else ""
        return f"<{type(self).__name__} {self.name!r}{where}>"


def fields_of(cls: type[DataObject]) -> tuple[Field, ...]:
    """The declared fields of a class, in order."""
    return _fields_of(cls)  # type: ignore[arg-type]  # mypy looks at the instances' __hash__


@cache
def _fields_of(cls: type[DataObject]) -> tuple[Field, ...]:
    hints = get_type_hints(cls)
    return tuple(
        Field(f.name, hints[f.name], f.default is MISSING, f.default, f.metadata["xml"])
        for f in fields(cls)
        if "xml" in f.metadata
    )


def attributes_of(element: Element) -> dict[str, str]:
    """The attributes of an element, by name, in order."""
    return {str(name): str(value) for name, value in element.attrib.items()}


def reads_itself(cls: type[DataObject]) -> bool:
    """Whether the class reads its element by its own code, not by its declaration."""
    return any("from_xml" in vars(base) for base in cls.__mro__[: cls.__mro__.index(DataObject)])


def handles_more_than_its_tag(cls: type[DataObject]) -> bool:
    """Whether the class decides by its own code which elements it imports."""
    return any("can_handle" in vars(base) for base in cls.__mro__[: cls.__mro__.index(DataObject)])


def _matches(candidate: DataObject, name: str | None, class_type: type | None) -> bool:
    return (name is None or candidate.name == name) and (
        class_type is None or isinstance(candidate, class_type)
    )


def _texts(known: Field, element: Element) -> list[str]:
    match known.declared.kind:
        case "attribute":
            value = element.get(known.tag)
            return [] if value is None else [value.strip()]
        case "text":
            return [(element.text or "").strip()]
        case _:
            return [(child.text or "").strip() for child in element.iterchildren(known.tag)]
