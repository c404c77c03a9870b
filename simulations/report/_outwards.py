"""Numbers of a bound as words: rounded outwards, so that what is printed is still true."""

from __future__ import annotations

import math


def number(value: float) -> str:
    """Three significant digits, rounded up: a bound stays one.

    >>> number(3.9901), number(2.0), number(float("inf"))
    ('4', '2', 'infinite')
    """
    return "infinite" if math.isinf(value) else f"{up(value):.3g}"


def factor(epsilon: float) -> str:
    """e^epsilon, rounded up.

    >>> factor(0.0), factor(1.0), factor(12.0)
    ('1', '2.72', '163,000')
    """
    value = up(math.exp(min(epsilon, 700.0)))
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def chance(delta: float) -> str:
    """
    >>> chance(1e-6)
    '1 in 1,000,000'
    """
    return f"1 in {math.floor(1 / delta + 1e-6):,}"


def percent(share: float, *, up: bool) -> str:
    """Rounded outwards, with as many digits as it takes to stay away from 0% and 100%.

    >>> percent(0.731058, up=True), percent(0.99966, up=True), percent(0.000185, up=False), percent(1.0, up=True)
    ('73.2%', '99.966%', '0.018%', '100%')
    """
    far = min(share, 1 - share)
    digits = 1 if far <= 0 else max(1, 1 - math.floor(math.log10(100 * far)))
    scale = 10.0**digits
    rounded = (math.ceil(100 * share * scale - 1e-9) if up else math.floor(100 * share * scale + 1e-9)) / scale
    return f"{rounded:.{digits}f}".rstrip("0").rstrip(".") + "%"


def up(value: float, digits: int = 3) -> float:
    """To so many significant digits, upwards.

    >>> up(3.9901), up(0.0)
    (4.0, 0.0)
    """
    if value <= 0 or math.isinf(value):
        return value
    scale = 10.0 ** (digits - 1 - math.floor(math.log10(value)))
    return math.ceil(value * scale - 1e-9) / scale


def of_a_thousand(share: float) -> str:
    """
    >>> of_a_thousand(0.7311)
    '732'
    """
    return f"{min(math.ceil(1000 * share - 1e-9), 1000):,}"
