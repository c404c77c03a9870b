"""One spelling for what is written in many: width, case, script, invisible characters, sizes and units."""

from __future__ import annotations

import re
import unicodedata

from mmrank.encoders.text._chinese import HAN, mainland, simplified

# Zero-width, bidi and variation marks, soft hyphens, tags, fillers of Hangul; halves of a broken surrogate pair,
# which neither UTF-8 nor the segmenter takes.
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u115f\u1160\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0"
    "\ud800-\udfff\U000e0000-\U000e0fff]"
)
# Pictures that NFKC would make letters: ™ and ℠, keycaps, letters and ideographs in boxes, ㊗ and ㊙, ℹ.
_PICTURES = re.compile("[™℠ℹ㊗㊙\U0001f100-\U0001f2ff]|[0-9#*]\u20e3")

_POSSESSIVE = re.compile(rf"['’](?:s(?![^\W_{HAN}])|(?![^\W_]))")
# A letter before 恤 or 领 is theirs: polo-t恤.
_HYPHENATED = re.compile(r"(?<![a-z0-9-])[a-z]+(?:-[a-z]+)+(?![a-z0-9恤领-])")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_DIMENSIONS = re.compile(r"(?<=\d)[x×*](?=\d)")

_UNITS = {
    **dict.fromkeys(("ml", "毫升"), "ml"),
    **dict.fromkeys(("l", "公升", "升"), "l"),
    **dict.fromkeys(("kg", "公斤", "千克"), "kg"),
    **dict.fromkeys(("mg", "毫克"), "mg"),
    **dict.fromkeys(("g", "克"), "g"),
    **dict.fromkeys(("cm", "厘米", "公分"), "cm"),
    **dict.fromkeys(("mm", "毫米", "公厘"), "mm"),
    **dict.fromkeys(("公尺", "米"), "m"),
    **dict.fromkeys(("mah", "毫安时", "毫安"), "mah"),
    **dict.fromkeys(("inch", "inches", "英寸", "英吋", "吋", "寸"), "inch"),
    **{"瓦": "w", "gb": "gb", "tb": "tb"},
}
"""What may stand after a number, and the unit that it is."""

_NOT_BEFORE = {"升": "级降", "克": "拉莱", "米": "色白黄黑灰线粉", "瓦": "楞罐", "寸": "照"}
"""What makes another word of a unit: 2升级, 3克拉, 2024米色, 5瓦楞."""


def _before_its_end(spelling: str) -> str:
    return spelling + (f"(?![{'a-z0-9' if spelling.isascii() else _NOT_BEFORE.get(spelling, '_')}])")


_MEASURE = re.compile(
    r"(?<![^\W_])(\d+(?:\.\d+)?)[ -]?"
    f"({'|'.join(_before_its_end(spelling) for spelling in sorted(_UNITS, key=len, reverse=True))})"
)


def folded(text: str) -> str:
    """`text` as all who write the same thing would write it; folding it again changes nothing.

    >>> folded("Ｎｉｋｅ 運動鞋 USB-C 500 ML"), folded("1.5公升 30×40公分")
    ('nike 运动鞋 usb usbc 500ml', '1.5l 30 40cm')
    """
    if not text.isascii():
        text = unicodedata.normalize("NFKC", _PICTURES.sub(" ", _INVISIBLE.sub("", text)))
        text = _INVISIBLE.sub("", text).replace("‐", "-").replace("‑", "-")  # NFKC makes one hyphen of another
    text = _POSSESSIVE.sub("", text.lower())
    if not text.isascii():
        text = mainland(simplified(text))
    if "-" in text:
        text = _HYPHENATED.sub(_joined, text)
    if "," in text:
        text = _THOUSANDS.sub("", text)
    return _MEASURE.sub(lambda match: match[1] + _UNITS[match[2]], _DIMENSIONS.sub(" ", text))


def _joined(match: re.Match[str]) -> str:
    """What a hyphen holds together in one word, the rest apart: tshirt, wifi, usb usbc, over ear."""
    parts = match[0].split("-")
    if len(parts) == 2 and len(parts[0]) == len(parts[1]) == 2:
        return "".join(parts)
    words = parts[:1]
    for before, part in zip(parts, parts[1:], strict=False):
        if len(before) == 1:
            words[-1] += part
        else:
            words.append(part)
    if len(words[-1]) == 1:
        words[-1] = words[-2] + words[-1]
    return " ".join(words)
