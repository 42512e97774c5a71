"""How well text is read: measures, truths, benchmarks in their published forms, judges."""
