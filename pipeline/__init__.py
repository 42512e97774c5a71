"""Everything that needs no GPU, in the order a page meets it."""
