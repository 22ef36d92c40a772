-- name: save_application
INSERT INTO application (id, has_active, record) VALUES (?, ?, ?)
ON CONFLICT (id) DO UPDATE SET id = excluded.id, has_active = excluded.has_active, record = excluded.record

-- name: delete_application
DELETE FROM application WHERE id = ?

-- name: get_application
SELECT record FROM application WHERE id = ?

-- name: list_applications
SELECT id, record FROM application WHERE id > ?1 AND (has_active OR NOT ?2) ORDER BY id LIMIT ?3

-- name: load_applications
SELECT record FROM application ORDER BY id
