"""`dstack agents add`: makes a machine that ssh reaches an agent of this home's mesh."""
