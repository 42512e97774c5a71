"""PostgreSQL's roles, each with what it needs and no more: groups without login, granted to users that log in.

    pagepack_owner    owns the tables; migrates
    pagepack_ingest   submits, ingests, and may lead: dispatches, sweeps, sends notices
    pagepack_worker   claims pages and stores what was read
    pagepack_query    reads: the public views, and what `pagepack status`, `search` and `export` look at beside them

`GRANT pagepack_worker TO reader_17` makes a user a worker. Views are made anew by every migration, which grants again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.errors import UsageError
from schemas.view_columns import COLUMNS

if TYPE_CHECKING:
    from pipeline.database.engine import Database


_ALL = "SELECT, INSERT, UPDATE, DELETE"
_LEASE = (
    "owner, lease_until, state, crashes, enqueued_at, cause, reason, finished_at"  # what giving back a lease writes
)

INGEST = {
    "alembic_version": "SELECT",
    "batches": "SELECT, INSERT, UPDATE",
    "prompt_versions": "SELECT, INSERT",
    "batch_prompts": "SELECT, INSERT, DELETE",  # a batch that is asked for again, otherwise
    "batch_pages": "SELECT, INSERT, DELETE",
    "sources": "SELECT, INSERT, UPDATE",
    "batch_sources": _ALL,  # a file that is gone leaves its batch
    "documents": "SELECT, INSERT, UPDATE",
    "pages": _ALL,  # one that could not be drawn is drawn again
    "text_layers": _ALL,
    "page_tasks": "SELECT, INSERT, UPDATE",
    "answer_versions": "SELECT, INSERT",  # a text layer that is preferred
    "answer_tries": "SELECT, INSERT",
    "page_search": "SELECT, INSERT",
    "search_index": "SELECT",
    "current_answers": "SELECT, INSERT, UPDATE",
    "answer_promotions": "SELECT, INSERT, UPDATE (rolled_back_at)",
    "promoted_answers": "SELECT, INSERT, DELETE",
    "evaluation_runs": "SELECT, INSERT",
    "evaluation_pages": "SELECT, INSERT",
    "evaluation_items": "SELECT, INSERT",
    "seen_pages": "SELECT, INSERT, DELETE",  # `pagepack serve --allow-review`
    "task_attempts": "SELECT, INSERT",
    "worker_processes": _ALL,
    "leaders": _ALL,
    "notices": _ALL,
    "broker_marks": "SELECT, INSERT, UPDATE",
    "endpoint_jobs": _ALL,
    "endpoint_job_pages": _ALL,
}

WORKER = {
    "alembic_version": "SELECT",
    "batches": "SELECT",
    "prompt_versions": "SELECT",
    "batch_prompts": "SELECT",
    "batch_pages": "SELECT",
    "sources": "SELECT (document_id, path)",  # for log lines; not where copies lie
    "batch_sources": "SELECT",
    "documents": f"SELECT, UPDATE ({_LEASE}, batch_id, next_attempt_at)",  # a lost image is drawn again
    "pages": "SELECT, UPDATE (image_freed_at)",  # images that are kept until they are read
    "text_layers": "SELECT",  # for models that are told what a page carries
    "page_tasks": f"SELECT, UPDATE ({_LEASE}, token, attempts, next_attempt_at, answer_id, leased_at)",
    "answer_versions": "SELECT, INSERT",
    "answer_tries": "INSERT",
    "page_search": "INSERT",
    "current_answers": "SELECT, INSERT, UPDATE (answer_id, latest_answer_id)",  # what people promoted stays
    "task_attempts": "SELECT, INSERT",
    "worker_processes": _ALL,
    "notices": "SELECT, INSERT",
    "endpoint_jobs": _ALL,
    "endpoint_job_pages": _ALL,
}

QUERY = dict.fromkeys([*COLUMNS, "schema_doc"], "SELECT")

READ = {  # what the views show anyway, and the fleet; neither where copies of files lie, nor who is told what
    "alembic_version": "SELECT",
    "batches": "SELECT (id, public_id, name, state, engine, model, text_layer, all_pages, all_seen, started_at, "
    "finished_at, command, forgotten_at)",
    "prompt_versions": "SELECT (version, name, parameters, created_at)",
    "batch_prompts": "SELECT",
    "batch_pages": "SELECT",
    "sources": "SELECT (id, path, document_id, cause, reason, gone_at)",
    "batch_sources": "SELECT",
    "documents": "SELECT",
    "pages": "SELECT",
    "page_tasks": "SELECT",
    "answer_versions": "SELECT",
    "page_search": "SELECT",
    "search_index": "SELECT",
    "current_answers": "SELECT",
    "text_layers": "SELECT",  # what a page carries is compared with what was read of it
    "seen_pages": "SELECT",
    "task_attempts": "SELECT",
    "worker_processes": "SELECT",
    "leaders": "SELECT",
}

GRANTS = {"pagepack_ingest": INGEST | QUERY, "pagepack_worker": WORKER, "pagepack_query": QUERY | READ}
OWNER = "pagepack_owner"


def role_statements() -> list[str]:
    """For a superuser, or one who may create roles and owns the tables; running them again changes nothing."""
    statements = [
        f"DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{role}') "
        f"THEN CREATE ROLE {role} NOLOGIN; END IF; END $$"
        for role in (OWNER, *GRANTS)
    ]
    statements += [_in_schema(f"GRANT USAGE, CREATE ON SCHEMA ' || quote_ident(current_schema()) || ' TO {OWNER}")]
    statements += [_in_schema(f"GRANT USAGE ON SCHEMA ' || quote_ident(current_schema()) || ' TO {', '.join(GRANTS)}")]
    statements.append(f"GRANT {OWNER} TO CURRENT_USER")  # who is no superuser gives tables to a role that it is in
    owned = sorted({*INGEST, *WORKER, *QUERY})  # sequences follow their tables
    return statements + [f"ALTER TABLE {name} OWNER TO {OWNER}" for name in owned] + grant_statements()


def _in_schema(statement: str) -> str:
    """The tables' schema is the first of the search path, whatever its name."""
    return f"DO $$ BEGIN EXECUTE '{statement}'; END $$"


def grant_statements() -> list[str]:
    """What `pagepack_owner` says after each migration."""
    statements = []
    for role, grants in GRANTS.items():
        statements += [f"REVOKE ALL ON {', '.join(sorted({*INGEST, *WORKER, *QUERY}))} FROM {role}"]
        statements += [f"GRANT {privileges} ON {name} TO {role}" for name, privileges in grants.items()]
    writers = "pagepack_ingest, pagepack_worker"
    return [
        *statements,
        f"GRANT USAGE ON SEQUENCE answers_id_seq, task_attempts_id_seq, notices_id_seq TO {writers}",
    ] + [
        f"GRANT USAGE ON SEQUENCE {name}_id_seq TO pagepack_ingest"
        for name in (
            *("batches", "documents", "sources", "pages", "page_tasks", "answer_promotions"),
            *("evaluation_runs", "evaluation_items"),
        )
    ]


def create_roles(database: Database) -> None:
    """Create the roles, or bring them up to date, in one transaction.

    Raises:
        UsageError: SQLite has none; or who is logged in may not.
    """
    if database.dialect != "postgresql":
        raise UsageError(f"{database.name} is a SQLite file, which has no roles; set PAGEPACK_DATABASE_URL")
    with database.write() as connection:
        for statement in role_statements():
            connection.exec_driver_sql(statement)
