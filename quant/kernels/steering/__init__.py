"""Integers that steer the operations after them: positions that grow, numbers brought to their reader."""
