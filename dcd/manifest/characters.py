"""The characters of XML texts. Source: XML 1.0, section 2.2."""

import re
from functools import cache


def is_xml_text(text: str) -> bool:
    """Whether XML can hold the text unchanged: a parser reads CR as a line end."""
    return not _forbidden().search(text)


@cache
def _forbidden() -> re.Pattern[str]:
    # Compiled at its first use: it takes milliseconds, and most workers need it never.
    return re.compile("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
