"""Every version of every prompt that was asked: the view `prompts`."""

from __future__ import annotations


def prompts(dialect: str) -> str:
    def parameter(name: str, kind: str) -> str:
        if dialect == "sqlite":
            return f"json_extract(v.parameters, '$.{name}') AS {name}"
        return f"CAST(v.parameters ->> '{name}' AS {kind}) AS {name}"

    kinds = {"max_tokens": "bigint", "temperature": "double precision", "top_p": "double precision"}
    parameters = ", ".join(parameter(*of) for of in {**kinds, "seed": "bigint", "stop": "text"}.items())
    return f"""
SELECT v.name AS prompt, v.version AS prompt_version, v.text AS text, {parameters}, v.created_at AS created_at,
       {parameter("schema", "text")}
FROM prompt_versions v
"""
