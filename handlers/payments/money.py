"""Money: decimals and how many digits a currency has. Nothing here, or anywhere in the family, is ever a float."""

from __future__ import annotations

import re
from decimal import ROUND_HALF_EVEN, Context, Decimal, Inexact, InvalidOperation
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

#: Currencies whose smallest unit is not a hundredth (ISO 4217), and coins and tokens by their usual decimals.
_DIGITS = {
    **dict.fromkeys(("BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG"), 0),
    **dict.fromkeys(("RWF", "UGX", "UYI", "VND", "VUV", "XAF", "XOF", "XPF"), 0),
    **dict.fromkeys(("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"), 3),
    **dict.fromkeys(("CLF", "UYW"), 4),
    "USDT": 6,
    "USDC": 6,
    "BTC": 8,
    "LTC": 8,
    "ETH": 18,
    "MATIC": 18,
    "POL": 18,
    "DAI": 18,
    "BNB": 18,
}
#: Wide enough for every amount here, and loud where something would be rounded that nobody asked to round.
EXACT = Context(prec=60, traps=[Inexact, InvalidOperation])
_WIDE = Context(prec=60, rounding=ROUND_HALF_EVEN)


def _no_float(value: Any) -> Any:
    if isinstance(value, float):
        raise ValueError('write money as text, "19.99": a number with a fraction has been through a float')
    return value


def _known(code: str) -> str:
    digits(code)
    return code


#: An amount of money, more than nothing: ``"19.99"``.
Amount = Annotated[Decimal, BeforeValidator(_no_float), Field(gt=0, max_digits=38, decimal_places=18)]
#: A share, 0 to 1: ``"0.1"``.
Rate = Annotated[Decimal, BeforeValidator(_no_float), Field(ge=0, le=1, max_digits=12)]
#: A currency's code, in upper case.
Currency = Annotated[str, BeforeValidator(lambda value: str(value).upper()), AfterValidator(_known)]


def digits(currency: str) -> int:
    """Give how many digits a currency has behind the point.

    Raises:
        ValueError: for a code that is none.
    """
    if currency in _DIGITS:
        return _DIGITS[currency]
    if re.fullmatch(r"[A-Z]{3}", currency):
        return 2
    raise ValueError(f"{currency!r} is no currency's code: write EUR, or one of {', '.join(sorted(_DIGITS)[-6:])} …")


def checked(amount: Decimal, currency: str) -> Decimal:
    """Give an amount with all of its currency's digits.

    Raises:
        ValueError: when it has more than there are.
    """
    try:
        return amount.quantize(Decimal(1).scaleb(-digits(currency)), context=EXACT)
    except (Inexact, InvalidOperation):
        raise ValueError(f"an amount in {currency} has at most {digits(currency)} digits behind the point") from None


def share(amount: Decimal, rate: Decimal, currency: str) -> Decimal:
    """Give a share of an amount, rounded half to even to the currency's smallest unit."""
    return _WIDE.multiply(amount, rate).quantize(Decimal(1).scaleb(-digits(currency)), context=_WIDE)


def units(amount: Decimal, decimals: int) -> int:
    """Give an amount as a whole number of smallest units.

    Raises:
        ValueError: when it is none.
    """
    try:
        return int(EXACT.to_integral_exact(EXACT.scaleb(amount, decimals)))
    except (Inexact, InvalidOperation):
        raise ValueError(
            f"an amount of a coin or token with {decimals} decimals has at most as many digits behind the point"
        ) from None
