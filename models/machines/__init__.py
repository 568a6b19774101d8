"""Failures of machines' components: the probability of each within a day or a week, and why."""

from models.machines.scenario import MACHINES

__all__ = ["MACHINES"]
