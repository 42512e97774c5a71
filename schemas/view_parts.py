"""What several views say, in SQL that SQLite and PostgreSQL read alike; `s` is a source, `p` a page, `b` a batch."""

from __future__ import annotations

_UP_TO_LAST_SLASH = "rtrim(s.path, replace(s.path, '/', ''))"  # cuts what is no slash from the right

FOLDER_AND_FILE_NAME = f"""CASE WHEN {_UP_TO_LAST_SLASH} = '/' THEN '/'
            ELSE rtrim({_UP_TO_LAST_SLASH}, '/') END AS folder,
       substr(s.path, length({_UP_TO_LAST_SLASH}) + 1) AS file_name"""

IS_THERE = "s.gone_at IS NULL"
"""Whether the file was met, or not missed, when its folder was walked last."""

IS_ASKED_ABOUT = """(b.all_pages OR EXISTS (SELECT 1 FROM batch_pages r WHERE r.batch_id = b.id
   AND p.page_index BETWEEN r.first_index AND r.last_index))"""
