"""Files that are replaced as a whole."""

import os


def replace_file(path: str, content: bytes, mode: int = 0o600, *, durable: bool = False) -> None:
    """Write a file so that a reader, or whoever runs it, sees the whole of it or the one before. `durable` holds also
    when the machine crashes. Raises OSError."""
    temporary = f"{path}.{os.getpid()}.new"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    with open(os.open(temporary, flags, mode), "wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(content)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    os.replace(temporary, path)
