"""How Alembic runs here: on the connection that `pipeline.database.engine` hands over, inside its transaction."""

from alembic import context

from schemas import evaluation_tables, tables, worker_tables  # noqa: F401 (their tables are to be known)
from schemas.base import Base


def include_name(name: str | None, kind: str, _parents: object) -> bool:
    """FTS5 keeps its index in tables of its own."""
    return not (kind == "table" and name is not None and name.startswith(("page_search", "schema_doc")))


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,
    include_name=include_name,
)
context.run_migrations()
