"""The binding of libbpf: errors carry the verifier's words, maps and rings work."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentd.errors import AgentdError
from agentd.kernel.inodes import InodeReader
from agentd.kernel.libbpf import BPF_EXIST, BPF_NOEXIST, BpfObject, KernelError
from agentd.kernel.pins import Pins
from agentd.kernel.ring import RingReader
from agentd.kernel.sensor import Sensor

SOURCE = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 2); __type(key, __u32);
         __type(value, __u64); } numbers SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_RINGBUF); __uint(max_entries, 4096); } ring SEC(".maps");
SEC("raw_tp/sys_enter") int program(struct bpf_raw_tracepoint_args *ctx)
{
	BODY
}
char LICENSE[] SEC("license") = "GPL";
"""
GOOD = """
	__u32 key = bpf_get_current_pid_tgid() >> 32;
	__u64 *count = bpf_map_lookup_elem(&numbers, &key);
	char bytes[100] = "record";
	if (!count || *count >= 1000)
		return 0;
	bytes[6] = *count += 1;
	bpf_ringbuf_output(&ring, bytes, 7 + (*count & 63), 0);
	return 0;
"""
BAD = "__u32 key = 0; __u64 *v = bpf_map_lookup_elem(&numbers, &key); return *v;"


def compiled(directory: Path, body: str) -> bytes:
    clang = shutil.which("clang")
    if clang is None:
        pytest.skip("needs clang")
    source = directory / "program.c"
    source.write_text(SOURCE.replace("BODY", body))
    target = directory / "program.o"
    machine = os.uname().machine
    include = f"/usr/include/{machine}-linux-gnu"
    subprocess.run(
        [clang, "-O2", "-g", "-target", "bpf", f"-I{include}", "-c", source, "-o", target],
        check=True,
    )
    return target.read_bytes()


@pytest.fixture
def loaded(tmp_path: Path) -> Iterator[BpfObject]:
    made = BpfObject("test", compiled(tmp_path, GOOD), {})
    yield made
    made.close()
    for bpf_map in made.maps.values():
        bpf_map.close()
    for program in made.programs.values():
        os.close(program.fd)


def test_refused_program_gives_the_words_of_the_verifier(tmp_path: Path) -> None:
    with pytest.raises(KernelError) as refused:
        BpfObject("test", compiled(tmp_path, BAD), {})
    text = str(refused.value)
    assert text.startswith("BPF object test: load")
    assert "invalid mem access 'map_value_or_null'" in text
    assert "program" in text
    assert refused.value.errno == 13


@pytest.mark.parametrize("raw", [b"", b"not an object", b"\x7fELF" + bytes(60)])
def test_no_object(raw: bytes) -> None:
    with pytest.raises(KernelError, match="BPF object test: open"):
        BpfObject("test", raw, {})


def test_map(loaded: BpfObject) -> None:
    numbers = loaded.maps["numbers"]
    one, two, three = (n.to_bytes(4, "little") for n in (1, 2, 3))
    assert numbers.get(one) is None
    with pytest.raises(KernelError) as missing:
        numbers.put(one, bytes(8), BPF_EXIST)
    assert missing.value.errno == 2
    numbers.put(one, b"abcdefgh")
    numbers.put(two, bytes(8), BPF_NOEXIST)
    with pytest.raises(KernelError) as full:
        numbers.put(three, bytes(8))
    assert full.value.errno == 7
    assert "map numbers: update: Argument list too long" in str(full.value)
    assert dict(numbers.items()) == {one: b"abcdefgh", two: bytes(8)}
    assert numbers.delete(one)
    assert not numbers.delete(one)
    assert list(numbers.keys()) == [two]


def test_shared_map_is_reused(loaded: BpfObject, tmp_path: Path) -> None:
    loaded.maps["numbers"].put(bytes(4), b"12345678")
    shared = {"numbers": loaded.maps["numbers"]}
    other = BpfObject("other", compiled(tmp_path, GOOD), shared)
    assert other.maps["numbers"].get(bytes(4)) == b"12345678"
    other.close()
    for fd in [m.fd for m in other.maps.values()] + [p.fd for p in other.programs.values()]:
        os.close(fd)


def test_ring_of_the_kernel(loaded: BpfObject) -> None:
    """A thousand records of all lengths through a ring of one page, so that they wrap."""
    ring = loaded.maps["ring"]
    reader = RingReader(ring.fd, ring.max_entries)
    loaded.maps["numbers"].put(os.getpid().to_bytes(4, "little"), bytes(8))
    link = loaded.programs["program"].attach_raw_tracepoint("sys_enter")
    try:
        got: list[bytes] = []
        while len(got) < 1000:
            got += reader.read(4)
            os.getppid()
    finally:
        os.close(link)
        reader.close()
    for number, record in enumerate(got, 1):
        assert len(record) == 7 + (number & 63)
        assert record[:7] == b"record" + bytes([number & 0xFF])


def test_missing_tracepoint(loaded: BpfObject) -> None:
    with pytest.raises(KernelError, match="attach program to no_such_tracepoint"):
        loaded.programs["program"].attach_raw_tracepoint("no_such_tracepoint")


def test_sensor_loads_and_leaves_nothing(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    sensor = Sensor()
    sensor.load()
    assert {"labels", "holds", "events", "hold_ring", "files", "totals"} <= set(sensor.maps)
    sensor.attach(Pins(tmp_path))
    sensor.watch_syscalls(wanted=True)
    sensor.watch_syscalls(wanted=True)
    sensor.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_object_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentd.kernel.sensor.OBJECTS", ("nothing",))
    with pytest.raises(AgentdError, match="run `make objects`"):
        Sensor().load()


def test_inode_numbers_are_the_kernels(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    link = tmp_path / "link"
    link.symlink_to(file)
    reader = InodeReader()
    found = reader.read(file)
    assert found is not None
    assert found.ino == file.stat().st_ino
    assert reader.read(link) == found
    assert reader.read(link, follow=False) is None
    assert reader.read(tmp_path) is None
    assert reader.read(tmp_path / "missing") is None
