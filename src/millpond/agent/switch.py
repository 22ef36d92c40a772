"""How a task's process becomes another user's: the switch, a program of some hundred bytes between spawner and task.

`posix_spawn` cannot change the user, `fork` costs as much again as the whole start, and Debian's `setpriv` loads
libraries for a millisecond (ADR 12 has the figures). So the spawner starts the switch, which needs no library: it reads
from descriptor 3 who to be, joins the control groups, drops every privilege in the kernel's order (groups, group, user),
and becomes the task's program. Descriptor 3 closes as it does; an errno in it says why it could not.

The switch is written here in machine code, one line per instruction, for the one kind of machine it is tested on.
Elsewhere `setpriv` does the same, slower.
"""

import os
import shutil
import struct
from typing import Final

from millpond.agent.replacement import replace_file

PROGRAM_NAME: Final = "switch"
_MACHINE: Final = "x86_64"
_BASE: Final = 0x400000
_ELF_HEADER_SIZE: Final = 64
_PROGRAM_HEADER_SIZE: Final = 56

_CODE: Final = (
    # fcntl(3, F_SETFD, FD_CLOEXEC)
    "bf 03 00 00 00",  # mov edi, 3
    "be 02 00 00 00",  # mov esi, 2
    "ba 01 00 00 00",  # mov edx, 1
    "b8 48 00 00 00",  # mov eax, 72
    "0f 05",  # syscall
    # read(3, buffer, 2048): uid, gid, number of control groups, number of groups, groups; 32 bits each
    "48 89 e5",  # mov rbp, rsp: there are argc, argv …, 0, environment …, 0
    "48 81 ec 00 10 00 00",  # sub rsp, 4096: the buffer
    "45 31 ed",  # xor r13d, r13d: nothing is done yet
    "bf 03 00 00 00",  # mov edi, 3
    "48 89 e6",  # mov rsi, rsp
    "ba 00 08 00 00",  # mov edx, 2048
    "31 c0",  # xor eax, eax
    "0f 05",  # syscall
    "83 f8 10",  # cmp eax, 16
    "0f 8c 96 00 00 00",  # jl fail: nobody there who would say it
    # for each control group, whose file to join by is open as 4, 5 …: write(it, "0", 1), close(it)
    "8b 5c 24 08",  # mov ebx, [rsp + 8]
    "41 bc 04 00 00 00",  # mov r12d, 4
    "c6 84 24 00 08 00 00 30",  # mov byte [rsp + 2048], "0"
    "85 db",  # next: test ebx, ebx
    "74 2c",  # jz user
    "44 89 e7",  # mov edi, r12d
    "48 8d b4 24 00 08 00 00",  # lea rsi, [rsp + 2048]
    "ba 01 00 00 00",  # mov edx, 1
    "b8 01 00 00 00",  # mov eax, 1
    "0f 05",  # syscall
    "85 c0",  # test eax, eax
    "78 65",  # js fail
    "44 89 e7",  # mov edi, r12d
    "b8 03 00 00 00",  # mov eax, 3
    "0f 05",  # syscall
    "41 ff c4",  # inc r12d
    "ff cb",  # dec ebx
    "eb d0",  # jmp next
    # setgroups(number, groups)
    "8b 7c 24 0c",  # user: mov edi, [rsp + 12]
    "48 8d 74 24 10",  # lea rsi, [rsp + 16]
    "b8 74 00 00 00",  # mov eax, 116
    "0f 05",  # syscall
    "85 c0",  # test eax, eax
    "75 40",  # jnz fail
    # setresgid(gid, gid, gid)
    "8b 7c 24 04",  # mov edi, [rsp + 4]
    "89 fe",  # mov esi, edi
    "89 fa",  # mov edx, edi
    "b8 77 00 00 00",  # mov eax, 119
    "0f 05",  # syscall
    "85 c0",  # test eax, eax
    "75 2d",  # jnz fail
    # setresuid(uid, uid, uid)
    "8b 3c 24",  # mov edi, [rsp]
    "89 fe",  # mov esi, edi
    "89 fa",  # mov edx, edi
    "b8 75 00 00 00",  # mov eax, 117
    "0f 05",  # syscall
    "85 c0",  # test eax, eax
    "75 1b",  # jnz fail
    # execve(argv[1], argv + 2, environment)
    "41 ff c5",  # inc r13d: it is that user
    "48 8b 4d 00",  # mov rcx, [rbp]
    "48 8b 7d 10",  # mov rdi, [rbp + 16]
    "48 8d 75 18",  # lea rsi, [rbp + 24]
    "48 8d 54 cd 10",  # lea rdx, [rbp + rcx * 8 + 16]
    "b8 3b 00 00 00",  # mov eax, 59
    "0f 05",  # syscall
    # write(3, [errno, whether it was that user], 8)
    "f7 d8",  # fail: neg eax
    "89 04 24",  # mov [rsp], eax
    "44 89 6c 24 04",  # mov [rsp + 4], r13d
    "bf 03 00 00 00",  # mov edi, 3
    "48 89 e6",  # mov rsi, rsp
    "ba 08 00 00 00",  # mov edx, 8
    "b8 01 00 00 00",  # mov eax, 1
    "0f 05",  # syscall
    # exit(127)
    "bf 7f 00 00 00",  # mov edi, 127
    "b8 3c 00 00 00",  # mov eax, 60
    "0f 05",  # syscall
)


def program() -> bytes | None:
    """The switch as an ELF file; None where there is none for this machine."""
    if os.uname().machine != _MACHINE:
        return None
    code = bytes.fromhex("".join(_CODE))
    start = _ELF_HEADER_SIZE + _PROGRAM_HEADER_SIZE
    size = start + len(code)
    # 64 bits, little endian; ET_EXEC, EM_X86_64; one program header right behind this one.
    identification = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header = identification + struct.pack(
        "<HHIQQQIHHHHHH", 2, 62, 1, _BASE + start, _ELF_HEADER_SIZE, 0, 0, 64, _PROGRAM_HEADER_SIZE, 1, 0, 0, 0
    )
    # PT_LOAD, readable and executable: the whole file.
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x1000)
    return header + segment + code


def install(directory: str) -> str:
    """Put the switch into a directory of the agent's own; the path to start, which may be that of `setpriv`.

    Raises OSError when it cannot be written, or when there is neither.
    """
    content = program()
    if content is not None:
        path = os.path.join(directory, PROGRAM_NAME)
        # In place of the old one, which may be running: a file that runs cannot be written to.
        replace_file(path, content, 0o700)
        return path
    found = shutil.which("setpriv", path="/usr/bin:/bin:/usr/sbin:/sbin")
    if found is None:
        raise FileNotFoundError("there is no switch for this kind of machine, and no setpriv (util-linux)")
    return found
