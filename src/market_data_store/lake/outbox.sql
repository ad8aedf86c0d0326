-- Statements of the outbox. Each is named by the line above it; parameters are named, none is ever formatted in.

-- name: schema
CREATE TABLE IF NOT EXISTS jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    job_type TEXT NOT NULL,
    payload TEXT NOT NULL,
    priority INTEGER NOT NULL,
    idempotency_key TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL DEFAULT 'queued' CHECK (state IN ('queued', 'running', 'done', 'failed')),
    attempts INTEGER NOT NULL DEFAULT 0,
    owner TEXT,
    created_ns INTEGER NOT NULL,
    lease_ns INTEGER,
    finished_ns INTEGER,
    error TEXT
) STRICT;

-- name: schema_open_jobs
CREATE INDEX IF NOT EXISTS open_jobs ON jobs (priority DESC, id) WHERE state IN ('queued', 'running');

-- name: add
INSERT INTO jobs (job_type, payload, priority, idempotency_key, created_ns)
VALUES (:job_type, :payload, :priority, :idempotency_key, :now_ns)
ON CONFLICT (idempotency_key) DO NOTHING;

-- name: find_by_key
SELECT * FROM jobs WHERE idempotency_key = :idempotency_key;

-- name: claim
UPDATE jobs SET state = 'running', owner = :owner, lease_ns = :lease_ns, attempts = attempts + 1
WHERE id = (
    SELECT id FROM jobs
    WHERE (state = 'queued' OR (state = 'running' AND lease_ns <= :now_ns))
        AND (:job_types IS NULL OR job_type IN (SELECT value FROM json_each(:job_types)))
    ORDER BY priority DESC, id LIMIT 1
)
RETURNING *;

-- name: finish
UPDATE jobs SET state = :state, error = :error, finished_ns = :now_ns, lease_ns = NULL
WHERE id = :id AND state = 'running' AND owner = :owner
RETURNING *;

-- name: list
SELECT * FROM jobs WHERE :state IS NULL OR state = :state ORDER BY id DESC LIMIT :limit;
