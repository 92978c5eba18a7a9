"""Money is an integer of minor units with a currency; JSON shows it with the currency's decimals.

Exponents: ISO 4217, amendment 176 (currencies whose minor unit is not 2 decimals).
"""

from decimal import Decimal

_NO_DECIMALS = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF"
_THREE_DECIMALS = "BHD IQD JOD KWD LYD OMR TND"
_DECIMALS = dict.fromkeys(_NO_DECIMALS.split(), 0) | dict.fromkeys(_THREE_DECIMALS.split(), 3)

PRICE_MINOR_MAX = 10**12
"""Above this a price is refused: a double still shows every minor unit exactly (2**53 > 9 * 10**15)."""


def decimals(currency: str) -> int:
    return _DECIMALS.get(currency, 2)


def to_minor(amount: Decimal, currency: str) -> int:
    """Minor units of `amount`. Raises ValueError when it has more decimals than the currency, or is out of range."""
    scaled = amount.scaleb(decimals(currency))
    if scaled != scaled.to_integral_value():
        raise ValueError(f"has more than {decimals(currency)} decimals for {currency}")
    if not 0 <= scaled <= PRICE_MINOR_MAX:
        raise ValueError(f"must be between 0 and {show(PRICE_MINOR_MAX, currency)}")
    return int(scaled)


def show(minor: int, currency: str) -> str:
    """The amount as a JSON number: `show(99999, "USD") == "999.99"`."""
    places = decimals(currency)
    if not places:
        return str(minor)
    return f"{minor // 10**places}.{minor % 10**places:0{places}d}"


def discount_percentage(base_minor: int, sale_minor: int) -> int:
    """Whole percent off, rounded half up: 1299.99 to 999.99 is 23."""
    if base_minor <= 0 or sale_minor >= base_minor:
        return 0
    return (200 * (base_minor - sale_minor) + base_minor) // (2 * base_minor)
