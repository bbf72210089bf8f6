"""The sections of the report page: one file each, found by name and registered in `SECTIONS`."""
