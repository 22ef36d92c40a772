-- name: save_kept_logs
-- The task may have been deleted meanwhile, and news of an earlier attempt may come late.
INSERT INTO kept_log (key, attempt, pack, data)
SELECT column1, column2, column3, column4 FROM (VALUES /*values*/)
WHERE column1 IS NOT NULL AND EXISTS (SELECT 1 FROM task WHERE key = column1)
ON CONFLICT (key) DO UPDATE SET attempt = excluded.attempt, pack = excluded.pack, data = excluded.data
WHERE excluded.attempt >= kept_log.attempt

-- name: change_kept_log
UPDATE kept_log SET data = ?4 WHERE key = ?1 AND attempt = ?2 AND pack IS ?3

-- name: get_kept_log
SELECT key, attempt, pack, data FROM kept_log WHERE key = ?

-- name: save_log_pack
INSERT INTO log_pack (no, size) VALUES (?, ?)

-- name: kept_log_bytes
SELECT coalesce(sum(size), 0) FROM log_pack

-- name: list_log_packs
SELECT no, size FROM log_pack WHERE no > ? ORDER BY no LIMIT ?

-- name: unused_log_packs
-- In steps over the packs, since most are in use.
SELECT no, size FROM (SELECT no, size FROM log_pack WHERE no > ?1 ORDER BY no LIMIT ?2) AS step
WHERE NOT EXISTS (SELECT 1 FROM kept_log WHERE pack = step.no)

-- name: end_of_log_packs
SELECT max(no) FROM (SELECT no FROM log_pack WHERE no > ?1 ORDER BY no LIMIT ?2)

-- name: drop_kept_logs
DELETE FROM kept_log WHERE pack IN (SELECT value FROM json_each(?))

-- name: delete_log_packs
DELETE FROM log_pack WHERE no IN (SELECT value FROM json_each(?))

-- name: delete_kept_logs
DELETE FROM kept_log WHERE key IN (SELECT value FROM json_each(?))

-- name: purge_kept_logs
DELETE FROM kept_log WHERE key BETWEEN ? AND ?

-- name: has_log_packs
SELECT EXISTS (SELECT 1 FROM log_pack WHERE no > ?)
