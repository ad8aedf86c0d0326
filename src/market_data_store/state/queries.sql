-- Every statement is named by the line above it; parameters are named, none is ever formatted in.

-- name: find_ingest
SELECT source_id, path, rows, rejected, ts FROM ingests WHERE source_id = :source_id;

-- name: add_ingest
INSERT INTO ingests (source_id, path, rows, rejected, ts) VALUES (:source_id, :path, :rows, :rejected, :ts)
ON CONFLICT (source_id) DO NOTHING;

-- name: list_ingests
SELECT source_id, path, rows, rejected, ts FROM ingests ORDER BY ts DESC, source_id;

-- name: add_job
INSERT INTO jobs (kind, params, idempotency_key, created_ns) VALUES (:kind, :params, :idempotency_key, :now_ns)
RETURNING *;

-- name: find_job
SELECT * FROM jobs WHERE id = :id;

-- name: find_job_by_key
SELECT * FROM jobs WHERE idempotency_key = :idempotency_key;

-- name: cancel_abandoned_jobs
UPDATE jobs SET state = 'cancelled', finished_ns = :now_ns
WHERE state = 'running' AND cancel_requested AND heartbeat_ns < :stale_ns;

-- name: claim_job
UPDATE jobs SET state = 'running', owner = :owner, heartbeat_ns = :now_ns, attempts = attempts + 1
WHERE id = (
    SELECT id FROM jobs
    WHERE (state = 'queued' OR (state = 'running' AND heartbeat_ns < :stale_ns))
        AND (:kinds IS NULL OR kind IN (SELECT value FROM json_each(:kinds)))
    ORDER BY id LIMIT 1
)
RETURNING *;

-- name: release_jobs
UPDATE jobs SET state = CASE WHEN cancel_requested THEN 'cancelled' ELSE 'queued' END, owner = NULL,
    heartbeat_ns = NULL, finished_ns = CASE WHEN cancel_requested THEN :now_ns END
WHERE state = 'running' AND owner = :owner
RETURNING id;

-- name: update_job
UPDATE jobs SET progress = :progress, heartbeat_ns = :now_ns
WHERE id = :id AND state = 'running' AND owner = :owner
RETURNING *;

-- name: finish_job
UPDATE jobs SET result = :result, error = :error, finished_ns = :now_ns, state = CASE
    WHEN :error IS NULL THEN 'done' WHEN cancel_requested THEN 'cancelled' ELSE 'failed' END
WHERE id = :id AND state = 'running' AND owner = :owner
RETURNING *;

-- name: cancel_job
UPDATE jobs SET cancel_requested = 1,
    finished_ns = CASE WHEN state = 'queued' THEN :now_ns ELSE finished_ns END,
    state = CASE WHEN state = 'queued' THEN 'cancelled' ELSE state END
WHERE id = :id AND state IN ('queued', 'running')
RETURNING *;

-- name: list_jobs
SELECT * FROM jobs
WHERE (:before_id IS NULL OR id < :before_id)
    AND (:kind IS NULL OR kind = :kind)
    AND (:states IS NULL OR state IN (SELECT value FROM json_each(:states)))
ORDER BY id DESC LIMIT :limit;

-- name: add_gap
INSERT INTO gaps (vendor, symbol, kind, from_ns, to_ns, cause, detail)
VALUES (:vendor, :symbol, :kind, :from_ns, :to_ns, :cause, :detail)
ON CONFLICT (vendor, symbol, kind, from_ns, cause) DO UPDATE SET to_ns = coalesce(to_ns, excluded.to_ns)
RETURNING *;

-- name: find_gap
SELECT * FROM gaps WHERE id = :id;

-- name: update_gap
UPDATE gaps SET to_ns = coalesce(:to_ns, to_ns), state = coalesce(:state, state), detail = coalesce(:detail, detail)
WHERE id = :id
RETURNING *;

-- name: list_gaps
SELECT * FROM gaps
WHERE (:vendor IS NULL OR vendor = :vendor)
    AND (:symbol IS NULL OR symbol IN (:symbol, '*'))
    AND (:kind IS NULL OR kind IN (:kind, '*'))
    AND (:states IS NULL OR state IN (SELECT value FROM json_each(:states)))
    AND (:start_ns IS NULL OR to_ns IS NULL OR to_ns > :start_ns)
    AND (:end_ns IS NULL OR from_ns < :end_ns)
    AND (:before_ns IS NULL OR (from_ns, id) < (:before_ns, :before_id))
ORDER BY from_ns DESC, id DESC LIMIT :limit;

-- name: find_flag
SELECT value FROM flags WHERE name = :name;

-- name: set_flag
INSERT INTO flags (name, value) VALUES (:name, :value) ON CONFLICT (name) DO UPDATE SET value = excluded.value;

-- name: list_flags
SELECT name, value FROM flags ORDER BY name;

-- name: find_audit_head
SELECT log, seq, hash FROM audit_heads WHERE log = :log;

-- name: set_audit_head
INSERT INTO audit_heads (log, seq, hash) VALUES (:log, :seq, :hash)
ON CONFLICT (log) DO UPDATE SET seq = excluded.seq, hash = excluded.hash WHERE excluded.seq > audit_heads.seq;

-- name: save_session
INSERT INTO sessions (key_hash, name, role, created_ns, seen_ns) VALUES (:key_hash, :name, :role, :created_ns, :seen_ns)
ON CONFLICT (key_hash) DO UPDATE SET seen_ns = excluded.seen_ns;

-- name: touch_session
UPDATE sessions SET seen_ns = :seen_ns WHERE key_hash = :key_hash;

-- name: find_session
SELECT key_hash, name, role, created_ns, seen_ns FROM sessions WHERE key_hash = :key_hash;

-- name: remove_session
DELETE FROM sessions WHERE key_hash = :key_hash;

-- name: remove_old_sessions
DELETE FROM sessions WHERE created_ns <= :created_ns OR seen_ns <= :seen_ns
    OR key_hash IN (SELECT key_hash FROM sessions ORDER BY seen_ns DESC LIMIT -1 OFFSET :kept);
