"""What must be removed together: normal form, groups of units, removable blocks."""
