"""The HTTP API, version 1: what programs ask for, and what they add. docs/api.md shows each route with curl."""
