-- Worked queries: docs/sql.md shows them, `pagepack serve` offers them, a test runs each on both databases.
--
-- `-- #` begins a group. `-- ##` begins a query: its title, and what it answers after a colon. A query that the
-- databases spell differently stands twice, for [sqlite] and for [postgresql]. Names such as report.pdf are examples.

-- # Find and read

-- ## Text of one file: Its pages in order, as one text.
SELECT text FROM document_text
WHERE file_name = 'report.pdf' AND prompt = 'ocr';

-- ## Pages with some words: The best first, by the index of words; words begin with what stands before a star. [sqlite]
SELECT source_path, page_number, substr(text, 1, 80) AS begins FROM page_words
WHERE terms MATCH 'tide* garden'
ORDER BY bm25(terms) LIMIT 20;

-- ## Pages with some words: The best first, by the index of words; words begin with what stands before a star. [postgresql]
SELECT source_path, page_number, substr(text, 1, 80) AS begins FROM page_words
WHERE terms @@ to_tsquery('simple', 'tide:* & garden')
ORDER BY ts_rank(terms, to_tsquery('simple', 'tide:* & garden')) DESC LIMIT 20;

-- ## A phrase, and words near words: A phrase of two words; or two words in any order with two others between them at most. [sqlite]
SELECT source_path, page_number, substr(text, 1, 80) AS begins FROM page_words
WHERE terms MATCH '"tidal garden" OR NEAR(open visitors, 2)'
ORDER BY source_path, page_number;

-- ## A phrase, and words near words: A phrase of two words; or two words in any order with two others between them at most. [postgresql]
SELECT source_path, page_number, substr(text, 1, 80) AS begins FROM page_words
WHERE terms @@ to_tsquery('simple', 'tidal <-> garden | open <1> visitors | open <2> visitors'
                             ' | open <3> visitors | visitors <1> open | visitors <2> open | visitors <3> open')
ORDER BY source_path, page_number;

-- ## Chinese, Japanese, Korean: The index holds characters in pairs; more than two are a phrase of pairs that overlap. [sqlite]
SELECT source_path, page_number FROM page_words
WHERE terms MATCH '"年度 度报 报告"'
ORDER BY source_path, page_number;

-- ## Chinese, Japanese, Korean: The index holds characters in pairs; more than two are a phrase of pairs that overlap. [postgresql]
SELECT source_path, page_number FROM page_words
WHERE terms @@ to_tsquery('simple', '年度 <-> 度报 <-> 报告')
ORDER BY source_path, page_number;

-- ## Figures on pages about something: Two prompts of one page: what `describe` says where `ocr` read a word.
SELECT d.source_path, d.page_number, d.text AS description
FROM page_text d
JOIN page_text o ON o.source_path = d.source_path AND o.page_number = d.page_number AND o.prompt = 'ocr'
WHERE d.prompt = 'describe' AND lower(o.text) LIKE '%tide%'
ORDER BY d.source_path, d.page_number;

-- ## Lines in a part of the page: What stands in the upper sixth of first pages: letterheads, dates.
SELECT source_path, line_number, text, left_px, top_px, right_px, bottom_px
FROM page_lines
WHERE page_number = 1 AND prompt = 'ocr' AND bottom_fraction < 0.16
ORDER BY source_path, line_number;

-- ## Pieces for retrieval: What goes into an index of embeddings, with the way back to the place on the page.
SELECT answer_id, chunk_number, source_path, page_number, text, left_px, top_px, right_px, bottom_px
FROM chunks
WHERE prompt = 'ocr' AND source_path LIKE '%/reports/%'
ORDER BY source_path, page_number, chunk_number;

-- ## Fields of structured answers: Totals by currency, out of answers under a JSON Schema (prompt `invoice`).
SELECT data ->> 'currency' AS currency, count(*) AS invoices, sum(CAST(data ->> 'total' AS NUMERIC)) AS total
FROM page_data
WHERE prompt = 'invoice'
GROUP BY data ->> 'currency'
ORDER BY total DESC;

-- # How much there is

-- ## Files and pages by folder: And how sure the engines are, on average.
SELECT folder, count(DISTINCT source_path) AS files, count(*) AS pages,
       round(CAST(avg(confidence) AS NUMERIC), 3) AS confidence
FROM page_text
WHERE prompt = 'ocr'
GROUP BY folder
ORDER BY pages DESC, folder;

-- ## The same content at several paths: Duplicates were read once.
SELECT document_id, count(*) AS paths, min(source_path) AS first_path, max(source_path) AS last_path
FROM document_text
WHERE prompt = 'ocr'
GROUP BY document_id
HAVING count(*) > 1
ORDER BY paths DESC, first_path;

-- ## Sizes of pages: In millimetres, the usual ones first; PDFs only.
SELECT round(CAST(width_pt * 25.4 / 72 AS NUMERIC), 0) AS width_mm,
       round(CAST(height_pt * 25.4 / 72 AS NUMERIC), 0) AS height_mm,
       count(*) AS pages
FROM page_images
WHERE width_pt IS NOT NULL
GROUP BY 1, 2
ORDER BY pages DESC, width_mm;

-- ## Files by kind: By content, of the latest batch that met each.
SELECT kind, count(*) AS files, sum(size_bytes) AS bytes
FROM (SELECT source_path, kind, size_bytes, gone_at,
             row_number() OVER (PARTITION BY source_path ORDER BY seen_at DESC, batch_id DESC) AS nth
      FROM files) latest
WHERE nth = 1 AND gone_at IS NULL AND kind IS NOT NULL
GROUP BY kind
ORDER BY files DESC, kind;

-- ## Files that are gone: They were in their folder once; the views of text leave them out.
SELECT source_path, max(gone_at) AS gone_at
FROM files
WHERE gone_at IS NOT NULL
GROUP BY source_path
ORDER BY source_path;

-- # What went wrong

-- ## Pages that failed, and why: What is broken still; whole files have no page number.
SELECT source_path, page_number, prompt, cause, reason
FROM current_failures
ORDER BY source_path, page_number;

-- ## Failures by cause: For `pagepack retry --cause`.
SELECT cause, kind, count(*) AS failures, min(reason) AS for_example
FROM current_failures
GROUP BY cause, kind
ORDER BY failures DESC, cause;

-- ## Files that were not read: Of one batch, the latest.
SELECT f.source_path, f.state, x.cause, x.reason
FROM files f
JOIN failures x ON x.batch_id = f.batch_id AND x.source_path = f.source_path AND x.page_number IS NULL
WHERE f.batch_id = (SELECT max(batch_id) FROM batch_summary)
ORDER BY f.source_path;

-- ## Pages that took several tries: Of one batch, and what the tries that gave no answer said.
SELECT source_path, page_number, prompt, count(*) AS tries, max(error) AS an_error
FROM attempts
GROUP BY source_path, page_number, prompt, prompt_version, batch_id
HAVING count(*) > 1
ORDER BY tries DESC, source_path, page_number;

-- # How well it was read

-- ## Pages worth a look: The review list, the gravest first.
SELECT source_path, page_number, prompt, reason, round(CAST(score AS NUMERIC), 2) AS score, detail
FROM review
ORDER BY score DESC, source_path, page_number
LIMIT 50;

-- ## Pages with the lowest confidence: By the engine's own word; null where it has none.
SELECT source_path, page_number, engine, confidence, lowest_confidence
FROM page_text
WHERE confidence IS NOT NULL
ORDER BY confidence, source_path, page_number
LIMIT 20;

-- ## Lines with the lowest confidence: Where on the page to look.
SELECT source_path, page_number, text, confidence, left_px, top_px, right_px, bottom_px
FROM page_lines
WHERE confidence < 0.9
ORDER BY confidence, source_path, page_number, line_number
LIMIT 50;

-- ## Pages that two models read differently: Those whose lengths differ most first; `pagepack diff` compares words.
SELECT x.source_path, x.page_number, x.model AS one, y.model AS other,
       length(x.text) AS one_length, length(y.text) AS other_length
FROM answers x
JOIN answers y ON y.source_path = x.source_path AND y.page_number = x.page_number
WHERE x.prompt_version = y.prompt_version AND x.model < y.model AND x.text <> y.text
ORDER BY abs(length(x.text) - length(y.text)) DESC, x.source_path, x.page_number;

-- ## Versions of one page: Every answer, the oldest first, and which one is shown.
SELECT created_at, engine, model, is_current, substr(text, 1, 80) AS begins
FROM answers
WHERE file_name = 'report.pdf' AND page_number = 1 AND prompt = 'ocr'
ORDER BY created_at, model;

-- ## Text layers against what was read: Pages that carry text of their own and were read nevertheless.
SELECT i.source_path, i.page_number, i.text_layer_verdict AS verdict,
       length(i.text_layer) AS carried, length(t.text) AS was_read
FROM page_images i
JOIN page_text t ON t.source_path = i.source_path AND t.page_number = i.page_number AND t.prompt = 'ocr'
WHERE i.text_layer IS NOT NULL AND t.engine <> 'text-layer'
ORDER BY abs(length(i.text_layer) - length(t.text)) DESC;

-- ## How answers ended: Loops, cut answers and blank pages, by engine.
SELECT engine, finish_reason, count(*) AS pages
FROM page_text
GROUP BY engine, finish_reason
ORDER BY engine, pages DESC;

-- # What it cost

-- ## Tokens, seconds and cost by day: Of all tries, with or without an answer.
SELECT substr(CAST(ended_at AS TEXT), 1, 10) AS day, count(*) AS tries, sum(prompt_tokens) AS prompt_tokens,
       sum(output_tokens) AS output_tokens, round(CAST(sum(seconds) AS NUMERIC), 1) AS seconds,
       round(CAST(sum(cost) AS NUMERIC), 4) AS cost
FROM attempts
GROUP BY substr(CAST(ended_at AS TEXT), 1, 10)
ORDER BY day;

-- ## Throughput by hour and worker: Pages that were answered.
SELECT substr(CAST(ended_at AS TEXT), 1, 13) AS hour, worker, count(*) AS pages
FROM attempts
WHERE error IS NULL
GROUP BY substr(CAST(ended_at AS TEXT), 1, 13), worker
ORDER BY hour, worker;

-- ## The slowest pages: By the engine's own time.
SELECT source_path, page_number, prompt, engine, seconds, output_tokens
FROM page_text
ORDER BY seconds DESC, source_path, page_number
LIMIT 20;

-- ## How long a batch took: And how many pages it came to in a second. [sqlite]
SELECT name, state, pages_done, round((julianday(finished_at) - julianday(started_at)) * 86400, 1) AS seconds,
       round(pages_done / ((julianday(finished_at) - julianday(started_at)) * 86400), 2) AS pages_per_second
FROM batch_summary
WHERE finished_at IS NOT NULL
ORDER BY started_at;

-- ## How long a batch took: And how many pages it came to in a second. [postgresql]
SELECT name, state, pages_done, round(extract(epoch FROM finished_at - started_at), 1) AS seconds,
       round(pages_done / extract(epoch FROM finished_at - started_at), 2) AS pages_per_second
FROM batch_summary
WHERE finished_at IS NOT NULL
ORDER BY started_at;

-- ## Which batches ask for a page: Also those that found its answer, and read nothing.
SELECT batch_name, state, is_current
FROM page_batches
WHERE file_name = 'report.pdf' AND page_number = 1 AND prompt = 'ocr'
ORDER BY batch_name;

-- ## What was asked: Every version of every prompt, and how many answers it has.
SELECT p.prompt, p.prompt_version, p.max_tokens, count(a.text) AS answers
FROM prompts p
LEFT JOIN answers a ON a.prompt_version = p.prompt_version
GROUP BY p.prompt, p.prompt_version, p.max_tokens
ORDER BY p.prompt, p.prompt_version;

-- ## What each column means: Of all views; `SELECT DISTINCT view_name, view_meaning` tells of the views.
SELECT view_name, column_name, column_type, meaning
FROM schema_doc
WHERE view_name = 'page_text'
ORDER BY column_number;
