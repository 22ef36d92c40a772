-- What the runs of a task used.
ALTER TABLE task ADD COLUMN use BLOB;  -- JSON, NULL before a run has ended
