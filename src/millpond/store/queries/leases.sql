-- name: get_lease
SELECT epoch, owner, expires FROM lease WHERE pool_key = ?

-- name: save_lease
INSERT INTO lease (pool_key, epoch, owner, expires) VALUES (?, ?, ?, ?)
ON CONFLICT (pool_key) DO UPDATE SET epoch = excluded.epoch, owner = excluded.owner, expires = excluded.expires

-- name: renew_leases
-- Of many: {pool key: epoch}.
UPDATE lease SET expires = max(expires, ?1)
WHERE owner = ?2 AND (pool_key, epoch) IN (SELECT key, value FROM json_each(?3))

-- name: held_leases
SELECT pool_key FROM lease WHERE owner = ?1 AND (pool_key, epoch) IN (SELECT key, value FROM json_each(?2))

-- name: release_lease
-- The epoch moves on, so that a commit of the former owner still on its way is void.
UPDATE lease SET epoch = epoch + 1, owner = NULL, expires = 0 WHERE pool_key = ? AND epoch = ?

-- name: leased
SELECT pool_key FROM lease WHERE owner IS NOT NULL ORDER BY pool_key

-- name: epochs
-- One row, whatever the number of pools: {pool key: epoch}.
SELECT json_group_object(pool_key, epoch) FROM lease WHERE pool_key IN (SELECT value FROM json_each(?))
