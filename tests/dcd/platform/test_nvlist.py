"""Name-value lists: what is written is read again, and nothing malformed is read as something."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcd.platform.nvlist import NvList, NvListError, NvPair, NvType, encode, parse

NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
BITS = {"8": 8, "16": 16, "32": 32, "64": 64}


def values(kind: NvType) -> st.SearchStrategy[Any]:
    """Values of a type, lists apart."""
    name = kind.name.removesuffix("_ARRAY")
    match name:
        case "BOOLEAN" if kind == NvType.BOOLEAN:
            return st.none()
        case "BOOLEAN" | "BOOLEAN_VALUE":
            one: st.SearchStrategy[Any] = st.booleans()
        case "STRING":
            one = NAMES
        case "DOUBLE":
            one = st.floats(allow_nan=False)
        case "BYTE":
            if kind == NvType.BYTE_ARRAY:
                return st.binary(max_size=9)
            one = st.integers(0, 255)
        case "HRTIME":
            one = st.integers(-(2**63), 2**63 - 1)
        case _:
            bits = int(name.lstrip("UINT"))
            low = 0 if name.startswith("U") else -(2 ** (bits - 1))
            one = st.integers(low, low + 2**bits - 1)
    return st.lists(one, max_size=4).map(tuple) if kind.name.endswith("_ARRAY") else one


LISTS = (NvType.NVLIST, NvType.NVLIST_ARRAY)


def pairs(inner: st.SearchStrategy[NvList] | None) -> st.SearchStrategy[NvPair]:
    """Pairs of every type; of lists only where there are any to put in."""
    kinds = [kind for kind in NvType if kind not in LISTS or inner is not None]

    def of(kind: NvType) -> st.SearchStrategy[NvPair]:
        value = values(kind) if kind not in LISTS else inner
        assert value is not None
        if kind == NvType.NVLIST_ARRAY:
            value = st.lists(value, max_size=3).map(tuple)
        return st.builds(NvPair, NAMES, st.just(kind), value)

    return st.sampled_from(kinds).flatmap(of)


def lists(inner: st.SearchStrategy[NvList] | None = None) -> st.SearchStrategy[NvList]:
    return st.builds(
        NvList, st.lists(pairs(inner), max_size=4).map(tuple), st.sampled_from([0, 1]), st.just(0)
    )


NVLISTS = st.recursive(lists(), lists, max_leaves=6)


@given(NVLISTS, st.binary(max_size=8))
def test_what_is_written_is_read_again(nvlist: NvList, after: bytes) -> None:
    written = encode(nvlist)
    assert parse(written + after) == (nvlist, len(written))


@given(NVLISTS, st.data())
def test_a_list_that_is_cut_off_is_told(nvlist: NvList, data: st.DataObject) -> None:
    written = encode(nvlist)
    cut = data.draw(st.integers(0, len(written) - 1))
    with pytest.raises(NvListError):
        parse(written[:cut])


@given(NVLISTS, st.data())
def test_damage_is_an_error_or_another_list_but_no_crash(
    nvlist: NvList, data: st.DataObject
) -> None:
    written = bytearray(encode(nvlist))
    place = data.draw(st.integers(0, len(written) - 1))
    written[place] = data.draw(st.integers(0, 255))
    try:
        found, used = parse(bytes(written))
    except NvListError:
        return
    assert used <= len(written)
    assert isinstance(found, NvList)


def test_the_bytes_are_those_of_the_format() -> None:
    nvlist = NvList((NvPair("version", NvType.UINT64, 5000), NvPair("path", NvType.STRING, "/d")))
    assert encode(nvlist).hex() == (
        "01010000" + "00000000" + "00000001"
        # sizes on disk and in memory, name, type, one element, value
        + "00000024" + "00000020" + "00000007" + b"version\0".hex() + "00000008" + "00000001"
        + "0000000000001388"
        + "00000020" + "00000020" + "00000004" + b"path".hex() + "00000009" + "00000001"
        + "00000002" + b"/d\0\0".hex()
        + "0000000000000000"
    )  # fmt: skip


@pytest.mark.parametrize("data", [b"", b"\0\1\0\0", b"\2\1\0\0", b"\1\2\0\0"])
def test_another_encoding_is_told(data: bytes) -> None:
    with pytest.raises(NvListError, match="not a name-value list"):
        parse(data + bytes(16))


def test_lists_in_lists_end_somewhere() -> None:
    nested = NvList()
    for _ in range(40):
        nested = NvList((NvPair("in", NvType.NVLIST, nested),))
    with pytest.raises(NvListError, match="too deep"):
        parse(encode(nested))


@pytest.mark.parametrize(
    ("kind", "value"), [(NvType.UINT64, -1), (NvType.INT32, "x"), (NvType.STRING, None)]
)
def test_a_value_that_does_not_fit_its_type_is_told(kind: NvType, value: Any) -> None:
    with pytest.raises(NvListError, match="fit"):
        encode(NvList((NvPair("n", kind, value),)))


def test_a_value_takes_the_place_of_the_one_before_it_and_none_takes_it_out() -> None:
    one, two = NvPair("a", NvType.STRING, "1"), NvPair("b", NvType.UINT64, 2)
    nvlist = NvList((one, two, one))
    assert nvlist.get("a", NvType.STRING) == "1"
    assert nvlist.get("a", NvType.UINT64) is None
    changed = nvlist.with_value("a", NvType.STRING, "3")
    assert changed.pairs == (NvPair("a", NvType.STRING, "3"), two)
    assert changed.with_value("a", NvType.STRING, None).pairs == (two,)
    added = changed.with_value("c", NvType.STRING, "4")
    assert added.pairs[2:] == (NvPair("c", NvType.STRING, "4"),)
