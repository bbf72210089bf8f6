"""Surgeries: apply a plan to a graph and repair what reads it; one file each.

A surgery states its pre- and postconditions; the machine checks them. The file name is the
registered name.
"""
