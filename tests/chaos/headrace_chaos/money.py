"""What usage costs by the price book: computed independently, in whole nano-dollars, rounded up once."""

import re
from typing import Any

from headrace_chaos.evidence import Value

_DATE_AT_END = re.compile(r"-20\d{6}$")
_MILLION = 1_000_000


def cost_nanodollars(prices: Value, provider: str, model: str, usage: Value) -> int:
    """Nano-dollars for one execution; 0 if the book has no price."""
    models = prices["providers"].get(provider, {})
    price: dict[str, Any] | None = next(
        (models[name] for name in (model, _DATE_AT_END.sub("", model), "*") if name in models), None
    )
    if price is None:
        return 0
    tokens, long = price, price.get("long_prompt")
    if long is not None and usage["input_tokens"] > long["above"]:
        tokens = long
    per_input = tokens.get("input", 0)
    rest, millionths = usage["input_tokens"], usage["output_tokens"] * tokens.get("output", 0)
    for kind in ("cache_write_1h", "cache_write_5m", "cached_input"):  # from the dearest, for counts that contradict
        counted = min(usage[f"{kind}_tokens"], rest)
        millionths += counted * tokens.get(kind, per_input)
        rest -= counted
    millionths += rest * per_input
    whole, rest = divmod(millionths, _MILLION)
    return int(whole + (rest > 0) + price.get("request", 0) + usage["searches"] * price.get("search", 0))
