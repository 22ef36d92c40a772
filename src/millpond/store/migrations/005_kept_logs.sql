-- Logs of tasks kept by the service: they outlive the node they were written on.

-- What is kept of each task's latest attempt that was told of. The contents lie one after the other in a blob for many
-- tasks, a pack; a row whose files are all empty has none.
CREATE TABLE kept_log (
    key INTEGER PRIMARY KEY,    -- the task's
    attempt INTEGER NOT NULL,
    pack INTEGER,
    data BLOB NOT NULL          -- which files, and where in the pack: MessagePack
);
CREATE INDEX kept_log_of_pack ON kept_log (pack) WHERE pack IS NOT NULL;

-- A pack's number grows with time. Its row stays until its blob is deleted.
CREATE TABLE log_pack (
    no INTEGER PRIMARY KEY,
    size INTEGER NOT NULL
);
