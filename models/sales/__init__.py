"""Weekly unit sales per SKU and store: quantiles for the next quarter."""

from models.sales.scenario import SALES

__all__ = ["SALES"]
