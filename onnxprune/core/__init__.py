"""Contracts, the graph view and the solver: the only room the passes may import."""
