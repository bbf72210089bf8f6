"""Criteria: (group, statistics) -> one score per unit, higher means keep; one file each.

A criterion knows no op types. The file name is the registered name.
"""
