"""Each module measures one thing, prints its setting, and with --json one object for machines."""
