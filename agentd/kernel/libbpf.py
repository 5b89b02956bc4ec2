"""A thin binding of the system's libbpf: objects, programs, maps, attachment.

Only what agentd calls, over ctypes, with the file descriptors in Python's hands. Facts come from
libbpf 1.x (`bpf/libbpf.h`, `bpf/bpf.h`); every failure raises `KernelError` with the errno.
"""

import ctypes
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from ctypes import c_char_p, c_int, c_size_t, c_void_p
from errno import ENOENT
from typing import Final

from agentd.errors import AgentdError
from agentd.kernel.libbpf_calls import open_library

BPF_ANY: Final = 0
BPF_NOEXIST: Final = 1
BPF_EXIST: Final = 2

CGROUP_ATTACH_TYPES: Final = {
    "cgroup/connect4": 10,
    "cgroup/connect6": 11,
    "cgroup/sendmsg4": 14,
    "cgroup/sendmsg6": 15,
}
"""`enum bpf_attach_type` of linux/bpf.h, by ELF section name."""


_TYPE_TRACING: Final = 26  # enum bpf_prog_type
_ATTACH_MODIFY_RETURN: Final = 26  # enum bpf_attach_type
_OVERRIDE: Final = "fmod_ret/"
_NEXT_PROGRAM: Final = "bpf_object__next_program"
_RETURN: Final = "fexit/"
_KIND_FUNC: Final = 12  # BTF_KIND_FUNC
_ERR_PTR: Final = 2**64 - 4095
_SECURITY_NAMES: Final = {
    "bprm_check_security": "bprm_check",
    "userns_create": "create_user_ns",
}
"""Where the function of security/security.c is not named as its hook is."""


class KernelError(AgentdError):
    """A bpf(2) operation failed: `.errno` says how, the text says which."""

    def __init__(self, what: str, errno: int) -> None:
        super().__init__(f"{what}: {os.strerror(errno)} (errno {errno})")
        self.errno = errno


_libc = ctypes.CDLL(None, use_errno=True)


_lib = open_library()
_messages: list[str] = []
_MESSAGE_ROOM: Final = 1 << 18  # a verifier log is one message


def _keep_message(level: int, fmt: bytes, arguments: int) -> int:
    if level <= 1:  # warnings and information; the rest is debugging
        buffer = ctypes.create_string_buffer(_MESSAGE_ROOM)
        _libc.vsnprintf(buffer, c_size_t(len(buffer)), c_char_p(fmt), c_void_p(arguments))
        _messages.append(buffer.value.decode(errors="replace").rstrip())
        del _messages[:-20]
    return 0


_printer = ctypes.CFUNCTYPE(c_int, c_int, c_char_p, c_void_p)(_keep_message)
_lib.libbpf_set_print(ctypes.cast(_printer, c_void_p))


def _check(what: str, result: int) -> int:
    if result < 0:
        raise KernelError(what, -result if result != -1 else ctypes.get_errno())
    return result


class Map:
    """A BPF map by file descriptor. Keys and values are packed bytes of the map's sizes."""

    __slots__ = ("_value", "fd", "key_size", "max_entries", "name", "value_size")

    def __init__(
        self, name: str, fd: int, key_size: int, value_size: int, max_entries: int
    ) -> None:
        self.name = name
        self.fd = fd
        self.key_size = key_size
        self.value_size = value_size
        self.max_entries = max_entries
        self._value = ctypes.create_string_buffer(max(value_size, 8))

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Of a key, of a value, and how many entries there can be."""
        return self.key_size, self.value_size, self.max_entries

    def get(self, key: bytes) -> bytes | None:
        """The value of a key, or None."""
        if _lib.bpf_map_lookup_elem(self.fd, key, self._value) < 0:
            return None
        return self._value.raw[: self.value_size]

    def put(self, key: bytes, value: bytes, flags: int = BPF_ANY) -> None:
        """Sets a key. Raises KernelError, for one when the map is full (E2BIG)."""
        _check(f"map {self.name}: update", _lib.bpf_map_update_elem(self.fd, key, value, flags))

    def delete(self, key: bytes) -> bool:
        """Removes a key; False if it was not there."""
        return bool(_lib.bpf_map_delete_elem(self.fd, key) == 0)

    def keys(self) -> Iterator[bytes]:
        """Every key, tolerant of changes meanwhile (at most max_entries of them)."""
        following = ctypes.create_string_buffer(self.key_size)
        key: bytes | None = None
        for _ in range(self.max_entries + 1):
            if _lib.bpf_map_get_next_key(self.fd, key, following) < 0:
                return
            key = following.raw
            yield key

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Every pair; a pair that goes away meanwhile is left out."""
        for key in list(self.keys()):
            value = self.get(key)
            if value is not None:
                yield key, value

    def close(self) -> None:
        """Closes the descriptor; the map goes with the last one."""
        os.close(self.fd)


class Program:
    """A loaded program: its name, ELF section and file descriptor."""

    __slots__ = ("fd", "name", "section")

    def __init__(self, name: str, section: str, fd: int) -> None:
        self.name = name
        self.section = section
        self.fd = fd

    def attach_raw_tracepoint(self, tracepoint: str) -> int:
        """Attaches; the returned descriptor is the attachment, closing it detaches."""
        fd = _lib.bpf_raw_tracepoint_open(tracepoint.encode(), self.fd)
        return _check(f"attach {self.name} to {tracepoint}", fd)

    def attach_target(self) -> int:
        """Attaches to the hook that the program was loaded for (LSM, fmod_ret, fentry)."""
        return _check(f"attach {self.name}", _lib.bpf_raw_tracepoint_open(None, self.fd))

    def attach_cgroup(self, cgroup_fd: int) -> int:
        """Attaches a cgroup program through a BPF link, whose descriptor is returned."""
        kind = CGROUP_ATTACH_TYPES[self.section]
        fd = _lib.bpf_link_create(self.fd, cgroup_fd, kind, None)
        return _check(f"attach {self.name} to a cgroup", fd)


def _sizes(pointer: int) -> tuple[int, int, int]:
    return (
        _lib.bpf_map__key_size(pointer),
        _lib.bpf_map__value_size(pointer),
        _lib.bpf_map__max_entries(pointer),
    )


class BpfObject:
    """One compiled object, loaded. Maps in `shared` of the same name and sizes are reused.

    Those of constants, whose names have a dot, are its own.
    """

    def __init__(
        self,
        name: str,
        elf: bytes,
        shared: dict[str, Map],
        *,
        retarget: bool = False,
        without: str = "",
        constants: Mapping[str, bytes] | None = None,
        exists: Callable[[str], bool] = lambda _function: True,
    ) -> None:
        """Load it. `retarget`: its LSM programs override `security_*` functions instead.

        Where such a function takes other arguments than the hook, the object has a program of
        the section `fmod_ret/security_*`, which then takes the other one's place.

        `without`: programs whose sections begin like this are left out. `constants`: section -> its
        bytes, to be compiled in.

        `exists` says whether the kernel has a function. A program for the return of one that it
        lacks is left out; so is an LSM program whose hook it lacks, which is then in `missing`.

        Raises KernelError with libbpf's own words, the verifier's among them.
        """
        self.name = name
        self._elf = elf  # libbpf reads it until the load is done
        del _messages[:]
        self._object = _lib.bpf_object__open_mem(elf, len(elf), None)
        if not self._object:
            raise KernelError(self._explain("open"), ctypes.get_errno())
        self._prepare_maps(shared, constants or {})
        self.missing: list[str] = []
        self._prepare_programs(without, exists, retarget=retarget)
        result = _lib.bpf_object__load(self._object)
        if result < 0:
            self.close()
            raise KernelError(self._explain("load"), -result)
        self.maps = {m.name: m for m in map(self._map, self._each("bpf_object__next_map"))}
        self.programs = {
            p.name: p
            for p in map(
                self._program,
                filter(_lib.bpf_program__autoload, self._each(_NEXT_PROGRAM)),
            )
        }

    def _explain(self, step: str) -> str:
        return "\n".join([f"BPF object {self.name}: {step}", *_messages])

    def _prepare_maps(self, shared: dict[str, Map], constants: Mapping[str, bytes]) -> None:
        for pointer in self._each("bpf_object__next_map"):
            name = _lib.bpf_map__name(pointer).decode()
            known = shared.get(name)
            if name in constants:
                value = constants[name]
                _check(name, _lib.bpf_map__set_initial_value(pointer, value, len(value)))
            elif known and known.sizes == _sizes(pointer):
                _check("reuse map", _lib.bpf_map__reuse_fd(pointer, known.fd))

    def _prepare_programs(
        self, without: str, exists: Callable[[str], bool], *, retarget: bool
    ) -> None:
        sections = {pointer: _section(pointer) for pointer in self._each(_NEXT_PROGRAM)}
        for pointer, section in sections.items():
            hook = _hook_of(section)
            if without and section.startswith(without):
                self._leave_out(pointer)
            elif section.startswith(_RETURN):
                if not exists(section.removeprefix(_RETURN)):
                    self._leave_out(pointer)
            elif section.startswith(_OVERRIDE):
                if not retarget:
                    self._leave_out(pointer)
            elif hook is None:
                continue
            elif retarget and _OVERRIDE + _function(hook) in sections.values():
                self._leave_out(pointer)
            elif not exists(_function(hook) if retarget else f"bpf_lsm_{hook}"):
                self.missing.append(hook)
                self._leave_out(pointer)
            elif retarget:
                self._override(pointer, _function(hook))

    @staticmethod
    def _leave_out(pointer: int) -> None:
        _check("leave out", _lib.bpf_program__set_autoload(pointer, False))  # noqa: FBT003

    @staticmethod
    def _override(pointer: int, function: str) -> None:
        for result in (
            _lib.bpf_program__set_type(pointer, _TYPE_TRACING),
            _lib.bpf_program__set_expected_attach_type(pointer, _ATTACH_MODIFY_RETURN),
            _lib.bpf_program__set_attach_target(pointer, 0, function.encode()),
        ):
            _check(f"retarget to {function}", result)

    def _each(self, function: str) -> Iterator[int]:
        pointer = None
        while pointer := getattr(_lib, function)(self._object, pointer):
            yield pointer

    @staticmethod
    def _map(pointer: int) -> Map:
        name = _lib.bpf_map__name(pointer).decode()
        return Map(name, os.dup(_lib.bpf_map__fd(pointer)), *_sizes(pointer))

    def share_maps(self, shared: dict[str, Map]) -> None:
        """Adds its maps to `shared`; one that did not fit is replaced there."""
        for bpf_map in self.maps.values():
            known = shared.get(bpf_map.name)
            is_constant = "." in bpf_map.name
            if is_constant or (known is not None and known.sizes == bpf_map.sizes):
                bpf_map.close()
                continue
            if known is not None:
                known.close()
            shared[bpf_map.name] = bpf_map

    @staticmethod
    def _program(pointer: int) -> Program:
        return Program(
            _lib.bpf_program__name(pointer).decode(),
            _lib.bpf_program__section_name(pointer).decode(),
            os.dup(_lib.bpf_program__fd(pointer)),
        )

    def close(self) -> None:
        """Frees libbpf's copy. Maps and programs live on through their descriptors."""
        _lib.bpf_object__close(self._object)
        self._elf = b""


def _section(pointer: int) -> str:
    return str(_lib.bpf_program__section_name(pointer).decode())


def _hook_of(section: str) -> str | None:
    """The LSM hook of a program, None if it is of another kind."""
    return section.removeprefix("lsm/") if section.startswith("lsm/") else None


def _function(hook: str) -> str:
    return f"security_{_SECURITY_NAMES.get(hook, hook)}"


class KernelFunctions:
    """The functions that the running kernel's type information knows; about 10 ms to read."""

    def __init__(self) -> None:
        self._btf = _lib.btf__load_vmlinux_btf()
        if not self._btf or self._btf >= _ERR_PTR:
            raise KernelError("read /sys/kernel/btf/vmlinux", ctypes.get_errno())

    def __contains__(self, name: str) -> bool:
        return bool(_lib.btf__find_by_name_kind(self._btf, name.encode(), _KIND_FUNC) > 0)

    def close(self) -> None:
        """Frees it (several MiB)."""
        _lib.btf__free(self._btf)


def missing_hooks(hooks: Iterable[str]) -> list[str]:
    """Those LSM hooks that the running kernel does not have. Raises KernelError without BTF."""
    functions = KernelFunctions()
    try:
        return [hook for hook in hooks if f"bpf_lsm_{hook}" not in functions]
    finally:
        functions.close()


def pin(fd: int, path: str) -> None:
    """Keeps a map, program or link alive under a path of a bpf file system."""
    _check(f"pin {path}", _lib.bpf_obj_pin(fd, path.encode()))


def get_pinned(path: str) -> int:
    """A descriptor of what is pinned there. Raises KernelError (ENOENT)."""
    return _check(f"open {path}", _lib.bpf_obj_get(path.encode()))


def is_loaded(program_id: int) -> bool:
    """Whether the kernel still has a program. Raises KernelError without the right to know."""
    fd = _lib.bpf_prog_get_fd_by_id(program_id)
    if fd == -ENOENT:
        return False
    os.close(_check(f"open program {program_id}", fd))
    return True


def trim_heap() -> None:
    """Gives memory that libbpf needed only for loading back to the system (glibc)."""
    _libc.malloc_trim(c_size_t(0))
