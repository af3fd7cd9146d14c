"""Say what a call may cost, and what it did cost.

Prices come from `genai-prices` and from a file of one's own (:mod:`limiter.pricing.overrides`);
:mod:`limiter.pricing.book` compiles them to integers. :mod:`limiter.pricing.reading` takes the size
of a call, and what it used, from the provider's own request and answer.
"""
