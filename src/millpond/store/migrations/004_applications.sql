-- Applications, each with all its packages: they are few, and change together.

CREATE TABLE application (
    id TEXT NOT NULL COLLATE NOCASE PRIMARY KEY,
    has_active INTEGER NOT NULL,    -- one of its packages is active
    record BLOB NOT NULL            -- JSON
) WITHOUT ROWID;
