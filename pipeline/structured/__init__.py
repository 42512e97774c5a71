"""Answers held to a JSON Schema: which schemas are taken, whether an answer fits, its fields as columns."""
