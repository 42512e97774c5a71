"""Alembic revisions, shipped with the program. A revision never imports the models; a test holds that they agree."""
