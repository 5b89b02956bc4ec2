"""The functions of libbpf 1.x that agentd calls, and their types (`bpf/libbpf.h`, `bpf/bpf.h`)."""

import ctypes
from ctypes import c_bool, c_char_p, c_int, c_size_t, c_uint32, c_uint64, c_void_p

from agentd.errors import AgentdError


def open_library() -> ctypes.CDLL:
    """Libbpf with the types of what agentd calls. Raises AgentdError where it is not installed."""
    try:
        library = ctypes.CDLL("libbpf.so.1", use_errno=True)
    except OSError as error:
        raise AgentdError(
            f"libbpf 1.x is not installed ({error}); install the package libbpf1"
        ) from error
    signatures: dict[str, tuple[object, list[object]]] = {
        "libbpf_set_print": (c_void_p, [c_void_p]),
        "bpf_object__open_mem": (c_void_p, [c_char_p, c_size_t, c_void_p]),
        "bpf_object__load": (c_int, [c_void_p]),
        "bpf_object__close": (None, [c_void_p]),
        "bpf_object__next_program": (c_void_p, [c_void_p, c_void_p]),
        "bpf_object__next_map": (c_void_p, [c_void_p, c_void_p]),
        "bpf_program__name": (c_char_p, [c_void_p]),
        "bpf_program__section_name": (c_char_p, [c_void_p]),
        "bpf_program__fd": (c_int, [c_void_p]),
        "bpf_program__set_autoload": (c_int, [c_void_p, c_bool]),
        "bpf_program__autoload": (c_bool, [c_void_p]),
        "btf__load_vmlinux_btf": (c_void_p, []),
        "btf__find_by_name_kind": (c_int, [c_void_p, c_char_p, c_uint32]),
        "btf__free": (None, [c_void_p]),
        "bpf_program__set_type": (c_int, [c_void_p, c_int]),
        "bpf_program__set_expected_attach_type": (c_int, [c_void_p, c_int]),
        "bpf_program__set_attach_target": (c_int, [c_void_p, c_int, c_char_p]),
        "bpf_map__name": (c_char_p, [c_void_p]),
        "bpf_map__fd": (c_int, [c_void_p]),
        "bpf_map__key_size": (c_uint32, [c_void_p]),
        "bpf_map__value_size": (c_uint32, [c_void_p]),
        "bpf_map__max_entries": (c_uint32, [c_void_p]),
        "bpf_map__reuse_fd": (c_int, [c_void_p, c_int]),
        "bpf_map__set_initial_value": (c_int, [c_void_p, c_char_p, c_size_t]),
        "bpf_raw_tracepoint_open": (c_int, [c_char_p, c_int]),
        "bpf_link_create": (c_int, [c_int, c_int, c_int, c_void_p]),
        "bpf_map_lookup_elem": (c_int, [c_int, c_char_p, c_void_p]),
        "bpf_map_update_elem": (c_int, [c_int, c_char_p, c_char_p, c_uint64]),
        "bpf_map_delete_elem": (c_int, [c_int, c_char_p]),
        "bpf_map_get_next_key": (c_int, [c_int, c_char_p, c_void_p]),
        "bpf_obj_pin": (c_int, [c_int, c_char_p]),
        "bpf_obj_get": (c_int, [c_char_p]),
        "bpf_prog_get_fd_by_id": (c_int, [c_uint32]),
    }
    for name, (restype, argtypes) in signatures.items():
        function = getattr(library, name)
        function.restype = restype
        function.argtypes = argtypes
    return library
