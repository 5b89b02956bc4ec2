"""Paths from the kernel's records."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.daemon.fold import Fold
from agentd.daemon.places import given_path, path_of, raw_path, true_path, unix_path

NAME = st.binary(min_size=1, max_size=20).filter(lambda raw: not set(raw) & {0, 47})


@pytest.mark.parametrize(
    ("components", "path"),
    [
        (b"", "/"),
        (b"leaf\0", "/leaf"),
        (b"leaf\0above\0top\0", "/top/above/leaf"),
        (b"leaf\0...\0", "/.../leaf"),
        (b"\xff\0", "/\\xff"),
    ],
)
def test_path_of(components: bytes, path: str) -> None:
    assert path_of(components) == path


@given(st.lists(NAME, max_size=12))
def test_components_are_turned_round(names: list[bytes]) -> None:
    components = b"".join(name + b"\0" for name in reversed(names))
    assert raw_path(components) == b"/" + b"/".join(names)


@pytest.mark.parametrize(
    ("base", "given_text", "path"),
    [
        (b"dir\0", b"file\0", b"/dir/file"),
        (b"", b"/abs/file\0", b"/abs/file"),
        (b"jail\0", b"/abs\0", b"/jail/abs"),
        (b"dir\0", b"../x\0", b"/dir/../x"),
        (b"dir\0", b"", b"/dir"),
    ],
)
def test_given_path(base: bytes, given_text: bytes, path: bytes) -> None:
    assert given_path(base, given_text) == path


def test_true_path(tmp_path: Path) -> None:
    base = os.fsencode(tmp_path)
    (tmp_path / "real" / "sub").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real" / "sub")
    assert true_path(base + b"/link/file") == base + b"/real/sub/file"
    assert true_path(base + b"/link/../file") == base + b"/real/file"
    assert true_path(base + b"/link") == base + b"/link"
    assert true_path(base + b"/link/") == base + b"/link"
    assert true_path(base + b"/link/.") == base + b"/real/sub"
    assert true_path(base + b"/gone/../file") == base + b"/file"
    assert true_path(b"/") == b"/"


@pytest.mark.parametrize(
    ("raw", "text"),
    [(b"/run/x.sock\0junk", "/run/x.sock"), (b"\0name\0\0", "@name"), (b"rel", "rel"), (b"", "")],
)
def test_unix_path(raw: bytes, text: str) -> None:
    assert unix_path(raw) == text


def test_fold() -> None:
    fold = Fold(burst=3)
    told = [count for count in (fold.count(1, "key") for _ in range(40)) if count]
    assert told == [1, 2, 3, 4, 8, 16, 32]
    assert fold.count(1, "other") == 1
    assert fold.count(2, "key") == 1
    fold.forget(1)
    assert fold.count(1, "key") == 1
    assert fold.count(2, "key") == 2
