CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL,
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
CREATE TABLE "prompt_versions" (
	version VARCHAR(16) NOT NULL,
	name TEXT NOT NULL,
	text TEXT NOT NULL,
	parameters JSON NOT NULL, created_at DATETIME,
	CONSTRAINT pk_prompts PRIMARY KEY (version)
);
CREATE TABLE "answer_versions" (
	id INTEGER NOT NULL,
	image_hash VARCHAR(64) NOT NULL,
	prompt_version VARCHAR(16) NOT NULL,
	engine TEXT NOT NULL,
	model TEXT NOT NULL,
	text TEXT NOT NULL,
	finish_reason VARCHAR(16) NOT NULL,
	prompt_tokens INTEGER NOT NULL,
	output_tokens INTEGER NOT NULL,
	seconds FLOAT NOT NULL,
	temperature FLOAT NOT NULL,
	confidence FLOAT,
	details JSON NOT NULL,
	created_at DATETIME NOT NULL, angle FLOAT, review_reason VARCHAR(32), review_score FLOAT, lowest_confidence FLOAT, cost FLOAT, token_ids TEXT, drafted_tokens INTEGER, accepted_tokens INTEGER,
	CONSTRAINT pk_answers PRIMARY KEY (id),
	CONSTRAINT fk_answers_prompt_version FOREIGN KEY(prompt_version) REFERENCES "prompt_versions" (version),
	CONSTRAINT uq_answers_image_hash_prompt_version_model UNIQUE (image_hash, prompt_version, model)
);
CREATE TABLE batch_pages (
	batch_id INTEGER NOT NULL,
	first_index INTEGER NOT NULL,
	last_index INTEGER NOT NULL,
	CONSTRAINT pk_batch_pages PRIMARY KEY (batch_id, first_index),
	CONSTRAINT fk_batch_pages_batch_id FOREIGN KEY(batch_id) REFERENCES batches (id)
);
CREATE TABLE batch_prompts (
	batch_id INTEGER NOT NULL,
	prompt_version VARCHAR(16) NOT NULL,
	CONSTRAINT pk_batch_prompts PRIMARY KEY (batch_id, prompt_version),
	CONSTRAINT fk_batch_prompts_batch_id FOREIGN KEY(batch_id) REFERENCES batches (id),
	CONSTRAINT fk_batch_prompts_prompt_version FOREIGN KEY(prompt_version) REFERENCES "prompt_versions" (version)
);
CREATE TABLE documents (
	id INTEGER NOT NULL,
	public_id VARCHAR(36) NOT NULL,
	content_hash VARCHAR(64) NOT NULL,
	kind VARCHAR(16) NOT NULL,
	size_bytes BIGINT NOT NULL,
	page_count INTEGER,
	batch_id INTEGER NOT NULL,
	state VARCHAR(16) NOT NULL,
	owner TEXT,
	token INTEGER NOT NULL,
	lease_until FLOAT,
	attempts INTEGER NOT NULL,
	crashes INTEGER NOT NULL,
	next_attempt_at FLOAT NOT NULL,
	enqueued_at FLOAT,
	cause TEXT,
	reason TEXT,
	finished_at DATETIME, detail VARCHAR(16) DEFAULT 'page' NOT NULL,
	CONSTRAINT pk_documents PRIMARY KEY (id),
	CONSTRAINT ck_documents_state CHECK (state IN ('pending', 'leased', 'ready', 'failed', 'rejected')),
	CONSTRAINT fk_documents_batch_id FOREIGN KEY(batch_id) REFERENCES batches (id),
	CONSTRAINT uq_documents_content_hash UNIQUE (content_hash),
	CONSTRAINT uq_documents_public_id UNIQUE (public_id)
);
CREATE INDEX ix_documents_batch_state ON documents (batch_id, state);
CREATE INDEX ix_documents_leased ON documents (owner) WHERE state = 'leased';
CREATE TABLE pages (
	id INTEGER NOT NULL,
	document_id INTEGER NOT NULL,
	page_index INTEGER NOT NULL,
	image_hash VARCHAR(64),
	width_px INTEGER,
	height_px INTEGER,
	warnings TEXT,
	cause TEXT,
	reason TEXT,
	created_at DATETIME NOT NULL, image_freed_at DATETIME, width_pt FLOAT, height_pt FLOAT, dpi FLOAT, print_px FLOAT, is_blank BOOLEAN,
	CONSTRAINT pk_pages PRIMARY KEY (id),
	CONSTRAINT ck_pages_image_or_cause CHECK ((image_hash IS NULL) <> (cause IS NULL)),
	CONSTRAINT fk_pages_document_id FOREIGN KEY(document_id) REFERENCES documents (id),
	CONSTRAINT uq_pages_document_id_page_index UNIQUE (document_id, page_index)
);
CREATE TABLE sources (
	id INTEGER NOT NULL,
	path TEXT NOT NULL,
	location TEXT NOT NULL,
	document_id INTEGER,
	size_bytes BIGINT NOT NULL,
	modified_ns BIGINT NOT NULL,
	cause TEXT,
	reason TEXT,
	seen_at DATETIME NOT NULL, gone_at DATETIME, members_mark VARCHAR(64),
	CONSTRAINT pk_sources PRIMARY KEY (id),
	CONSTRAINT fk_sources_document_id FOREIGN KEY(document_id) REFERENCES documents (id),
	CONSTRAINT uq_sources_path UNIQUE (path)
);
CREATE INDEX ix_sources_document_id ON sources (document_id);
CREATE TABLE batch_sources (
	batch_id INTEGER NOT NULL,
	source_id INTEGER NOT NULL,
	document_id INTEGER,
	cause TEXT,
	reason TEXT,
	seen_at DATETIME NOT NULL, size_bytes BIGINT, modified_ns BIGINT,
	CONSTRAINT pk_batch_sources PRIMARY KEY (batch_id, source_id),
	CONSTRAINT fk_batch_sources_document_id FOREIGN KEY(document_id) REFERENCES documents (id),
	CONSTRAINT fk_batch_sources_batch_id FOREIGN KEY(batch_id) REFERENCES batches (id),
	CONSTRAINT fk_batch_sources_source_id FOREIGN KEY(source_id) REFERENCES sources (id)
);
CREATE INDEX ix_batch_sources_source_id ON batch_sources (source_id);
CREATE INDEX ix_batch_sources_document_id ON batch_sources (document_id);
CREATE TABLE current_answers (
	page_id INTEGER NOT NULL,
	prompt TEXT NOT NULL,
	answer_id INTEGER NOT NULL, promotion_id INTEGER, latest_answer_id INTEGER,
	CONSTRAINT pk_current_answers PRIMARY KEY (page_id, prompt),
	CONSTRAINT fk_current_answers_answer_id FOREIGN KEY(answer_id) REFERENCES "answer_versions" (id),
	CONSTRAINT fk_current_answers_page_id FOREIGN KEY(page_id) REFERENCES pages (id)
);
CREATE INDEX ix_current_answers_answer_id ON current_answers (answer_id);
CREATE TABLE page_tasks (
	id INTEGER NOT NULL,
	page_id INTEGER NOT NULL,
	prompt_version VARCHAR(16) NOT NULL,
	model TEXT NOT NULL,
	batch_id INTEGER NOT NULL,
	state VARCHAR(16) NOT NULL,
	owner TEXT,
	token INTEGER NOT NULL,
	lease_until FLOAT,
	attempts INTEGER NOT NULL,
	crashes INTEGER NOT NULL,
	next_attempt_at FLOAT NOT NULL,
	enqueued_at FLOAT,
	answer_id INTEGER,
	cause TEXT,
	reason TEXT,
	finished_at DATETIME, leased_at DATETIME, max_tokens INTEGER,
	CONSTRAINT pk_page_tasks PRIMARY KEY (id),
	CONSTRAINT ck_page_tasks_leased_has_owner CHECK ((state = 'leased') = (owner IS NOT NULL)),
	CONSTRAINT ck_page_tasks_done_has_answer CHECK (state <> 'done' OR answer_id IS NOT NULL),
	CONSTRAINT ck_page_tasks_state CHECK (state IN ('pending', 'leased', 'done', 'failed')),
	CONSTRAINT fk_page_tasks_answer_id FOREIGN KEY(answer_id) REFERENCES "answer_versions" (id),
	CONSTRAINT fk_page_tasks_batch_id FOREIGN KEY(batch_id) REFERENCES batches (id),
	CONSTRAINT fk_page_tasks_page_id FOREIGN KEY(page_id) REFERENCES pages (id),
	CONSTRAINT fk_page_tasks_prompt_version FOREIGN KEY(prompt_version) REFERENCES "prompt_versions" (version),
	CONSTRAINT uq_page_tasks_page_id_prompt_version_model UNIQUE (page_id, prompt_version, model)
);
CREATE INDEX ix_page_tasks_batch_state ON page_tasks (batch_id, state);
CREATE INDEX ix_page_tasks_leased ON page_tasks (owner) WHERE state = 'leased';
CREATE TABLE text_layers (
	page_id INTEGER NOT NULL,
	text TEXT NOT NULL, verdict VARCHAR(32), boxes JSON,
	CONSTRAINT pk_text_layers PRIMARY KEY (page_id),
	CONSTRAINT fk_text_layers_page_id FOREIGN KEY(page_id) REFERENCES pages (id)
);
CREATE TABLE task_attempts (
	id INTEGER NOT NULL,
	task_id INTEGER NOT NULL,
	token INTEGER NOT NULL,
	worker TEXT NOT NULL,
	engine TEXT,
	finish_reason VARCHAR(16),
	temperature FLOAT,
	prompt_tokens INTEGER,
	output_tokens INTEGER,
	seconds FLOAT,
	error TEXT,
	ended_at DATETIME NOT NULL, batch_id BIGINT, started_at DATETIME, cost FLOAT, text TEXT, drafted_tokens INTEGER, accepted_tokens INTEGER,
	CONSTRAINT pk_task_attempts PRIMARY KEY (id),
	CONSTRAINT fk_task_attempts_task_id FOREIGN KEY(task_id) REFERENCES page_tasks (id),
	CONSTRAINT uq_task_attempts_task_id_token UNIQUE (task_id, token)
);
CREATE TABLE schema_doc (
	view_name TEXT NOT NULL,
	column_name TEXT NOT NULL,
	meaning TEXT NOT NULL, column_type TEXT, view_meaning TEXT, column_number INTEGER,
	CONSTRAINT pk_schema_doc PRIMARY KEY (view_name, column_name)
);
CREATE TABLE "batches" (
	id INTEGER NOT NULL,
	public_id VARCHAR(36) NOT NULL,
	"key" TEXT NOT NULL,
	name TEXT NOT NULL,
	state VARCHAR(16) NOT NULL,
	engine TEXT NOT NULL,
	model TEXT NOT NULL,
	text_layer VARCHAR(16) NOT NULL,
	all_pages BOOLEAN NOT NULL,
	started_at DATETIME NOT NULL,
	finished_at DATETIME,
	priority INTEGER DEFAULT '0' NOT NULL,
	notify TEXT,
	all_seen BOOLEAN DEFAULT 1 NOT NULL, command JSON, detail VARCHAR(16) DEFAULT 'auto' NOT NULL, max_cost FLOAT, shows_answers BOOLEAN DEFAULT 1 NOT NULL, forgotten_at DATETIME,
	CONSTRAINT pk_batches PRIMARY KEY (id),
	CONSTRAINT uq_batches_public_id UNIQUE (public_id),
	CONSTRAINT uq_batches_key UNIQUE ("key"),
	CONSTRAINT ck_batches_state CHECK (state IN ('running', 'paused', 'finished', 'cancelled'))
);
CREATE INDEX ix_pages_kept ON pages (created_at) WHERE image_hash IS NOT NULL AND image_freed_at IS NULL;
CREATE INDEX ix_pages_image ON pages (image_hash) WHERE image_hash IS NOT NULL AND image_freed_at IS NULL;
CREATE INDEX ix_documents_due ON documents (batch_id, state, id) WHERE state = 'pending' AND enqueued_at IS NULL;
CREATE INDEX ix_page_tasks_due ON page_tasks (batch_id, state, id) WHERE state = 'pending' AND enqueued_at IS NULL;
CREATE TABLE worker_processes (
	owner TEXT NOT NULL,
	role VARCHAR(16) NOT NULL,
	host TEXT NOT NULL,
	device TEXT,
	engine TEXT,
	model TEXT,
	version TEXT NOT NULL,
	slots INTEGER NOT NULL,
	started_at DATETIME NOT NULL,
	seen_at FLOAT NOT NULL, prompts JSON,
	CONSTRAINT pk_worker_processes PRIMARY KEY (owner)
);
CREATE TABLE notices (
	id INTEGER NOT NULL,
	batch_id INTEGER NOT NULL,
	document_id INTEGER NOT NULL,
	created_at DATETIME NOT NULL,
	sent_at DATETIME, taken_at DATETIME,
	CONSTRAINT pk_notices PRIMARY KEY (id),
	CONSTRAINT fk_notices_batch_id FOREIGN KEY(batch_id) REFERENCES batches (id),
	CONSTRAINT fk_notices_document_id FOREIGN KEY(document_id) REFERENCES documents (id),
	CONSTRAINT uq_notices_batch_id_document_id UNIQUE (batch_id, document_id)
);
CREATE INDEX ix_notices_unsent ON notices (id) WHERE sent_at IS NULL;
CREATE INDEX ix_notices_lying ON notices (batch_id) WHERE sent_at IS NOT NULL AND taken_at IS NULL;
CREATE TABLE broker_marks (
	id INTEGER NOT NULL,
	queue TEXT NOT NULL,
	CONSTRAINT pk_broker_marks PRIMARY KEY (id)
);
CREATE INDEX ix_documents_enqueued ON documents (batch_id, enqueued_at) WHERE state = 'pending' AND enqueued_at IS NOT NULL;
CREATE INDEX ix_page_tasks_enqueued ON page_tasks (batch_id, enqueued_at) WHERE state = 'pending' AND enqueued_at IS NOT NULL;
CREATE TABLE leaders (
	name VARCHAR(16) NOT NULL,
	owner TEXT NOT NULL,
	held_until FLOAT NOT NULL,
	CONSTRAINT pk_leaders PRIMARY KEY (name)
);
CREATE INDEX ix_pages_failed ON pages (document_id) WHERE cause IS NOT NULL;
CREATE INDEX ix_page_tasks_answer ON page_tasks (answer_id) WHERE answer_id IS NOT NULL;
CREATE INDEX ix_notices_document_id ON notices (document_id);
CREATE TABLE answer_promotions (
	id INTEGER NOT NULL,
	answers TEXT NOT NULL,
	prompt TEXT,
	batch_id VARCHAR(36),
	path TEXT,
	created_at DATETIME NOT NULL,
	rolled_back_at DATETIME,
	CONSTRAINT pk_answer_promotions PRIMARY KEY (id)
);
CREATE TABLE promoted_answers (
	page_id INTEGER NOT NULL,
	prompt TEXT NOT NULL,
	promotion_id INTEGER NOT NULL,
	answer_id INTEGER NOT NULL,
	CONSTRAINT pk_promoted_answers PRIMARY KEY (page_id, prompt, promotion_id),
	CONSTRAINT fk_promoted_answers_page_id FOREIGN KEY(page_id) REFERENCES pages (id),
	CONSTRAINT fk_promoted_answers_promotion_id FOREIGN KEY(promotion_id) REFERENCES answer_promotions (id),
	CONSTRAINT fk_promoted_answers_answer_id FOREIGN KEY(answer_id) REFERENCES answer_versions (id)
);
CREATE INDEX ix_promoted_answers_promotion_id ON promoted_answers (promotion_id);
CREATE INDEX ix_promoted_answers_answer_id ON promoted_answers (answer_id);
CREATE INDEX ix_current_answers_held ON current_answers (promotion_id) WHERE promotion_id IS NOT NULL;
CREATE INDEX ix_task_attempts_cost ON task_attempts (batch_id, cost) WHERE cost IS NOT NULL;
CREATE TABLE evaluation_runs (
	id INTEGER NOT NULL,
	kind VARCHAR(32) NOT NULL,
	name TEXT NOT NULL,
	answers TEXT NOT NULL,
	prompt TEXT,
	worst_tenth_share FLOAT,
	created_at DATETIME NOT NULL,
	CONSTRAINT pk_evaluation_runs PRIMARY KEY (id)
);
CREATE TABLE evaluation_pages (
	evaluation_id INTEGER NOT NULL,
	page_id INTEGER NOT NULL,
	answer_id INTEGER NOT NULL,
	truth VARCHAR(32) NOT NULL,
	characters INTEGER NOT NULL,
	character_errors INTEGER NOT NULL,
	words INTEGER NOT NULL,
	word_errors INTEGER NOT NULL,
	recall FLOAT NOT NULL,
	precision FLOAT NOT NULL,
	table_score FLOAT,
	CONSTRAINT pk_evaluation_pages PRIMARY KEY (evaluation_id, page_id),
	CONSTRAINT fk_evaluation_pages_evaluation_id FOREIGN KEY(evaluation_id) REFERENCES evaluation_runs (id),
	CONSTRAINT fk_evaluation_pages_page_id FOREIGN KEY(page_id) REFERENCES pages (id),
	CONSTRAINT fk_evaluation_pages_answer_id FOREIGN KEY(answer_id) REFERENCES answer_versions (id)
);
CREATE TABLE evaluation_items (
	id INTEGER NOT NULL,
	evaluation_id INTEGER NOT NULL,
	page_id INTEGER,
	item TEXT NOT NULL,
	category TEXT NOT NULL,
	score FLOAT,
	detail TEXT,
	CONSTRAINT pk_evaluation_items PRIMARY KEY (id),
	CONSTRAINT fk_evaluation_items_evaluation_id FOREIGN KEY(evaluation_id) REFERENCES evaluation_runs (id),
	CONSTRAINT fk_evaluation_items_page_id FOREIGN KEY(page_id) REFERENCES pages (id)
);
CREATE INDEX ix_evaluation_pages_page_id ON evaluation_pages (page_id);
CREATE INDEX ix_evaluation_pages_answer_id ON evaluation_pages (answer_id);
CREATE INDEX ix_evaluation_items_evaluation_id ON evaluation_items (evaluation_id);
CREATE INDEX ix_evaluation_items_page_id ON evaluation_items (page_id);
CREATE TABLE endpoint_jobs (
	"key" VARCHAR(32) NOT NULL,
	model TEXT NOT NULL,
	job_id TEXT,
	created_at DATETIME NOT NULL,
	CONSTRAINT pk_endpoint_jobs PRIMARY KEY ("key")
);
CREATE TABLE endpoint_job_pages (
	"key" VARCHAR(32) NOT NULL,
	page TEXT NOT NULL,
	CONSTRAINT pk_endpoint_job_pages PRIMARY KEY ("key", page),
	CONSTRAINT fk_endpoint_job_pages_key FOREIGN KEY("key") REFERENCES endpoint_jobs ("key")
);
CREATE INDEX ix_endpoint_job_pages_page ON endpoint_job_pages (page);
CREATE TABLE answer_tries (
	answer_id INTEGER NOT NULL,
	number INTEGER NOT NULL,
	verdict VARCHAR(16) NOT NULL,
	text TEXT NOT NULL,
	finish_reason VARCHAR(16),
	temperature FLOAT,
	angle FLOAT,
	tiles INTEGER,
	prompt_tokens INTEGER NOT NULL,
	output_tokens INTEGER NOT NULL,
	seconds FLOAT NOT NULL,
	confidence FLOAT,
	is_chosen BOOLEAN NOT NULL,
	error TEXT,
	CONSTRAINT pk_answer_tries PRIMARY KEY (answer_id, number),
	CONSTRAINT fk_answer_tries_answer_id FOREIGN KEY(answer_id) REFERENCES answer_versions (id)
);
CREATE TABLE search_index (
	id INTEGER NOT NULL,
	done INTEGER NOT NULL,
	until INTEGER NOT NULL,
	CONSTRAINT pk_search_index PRIMARY KEY (id)
);
CREATE VIRTUAL TABLE page_search USING fts5(terms, aside, tokenize = "unicode61 remove_diacritics 2 categories 'L* M* N* Co Cn'");
CREATE TABLE seen_pages (
	page_id INTEGER NOT NULL,
	answer_id INTEGER NOT NULL,
	seen_at DATETIME NOT NULL,
	CONSTRAINT pk_seen_pages PRIMARY KEY (page_id, answer_id),
	CONSTRAINT fk_seen_pages_page_id FOREIGN KEY(page_id) REFERENCES pages (id),
	CONSTRAINT fk_seen_pages_answer_id FOREIGN KEY(answer_id) REFERENCES answer_versions (id)
);
CREATE INDEX ix_seen_pages_answer_id ON seen_pages (answer_id);
CREATE INDEX ix_seen_pages_seen_at ON seen_pages (seen_at);
INSERT INTO search_index (id, done, until) VALUES (1, 0, 0);
INSERT INTO alembic_version (version_num) VALUES ('0011');
