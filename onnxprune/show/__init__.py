"""Tables and documents for people."""
