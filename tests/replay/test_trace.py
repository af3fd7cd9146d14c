"""Reading traces: what is taken, and where the first mistake is."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from limiter.cli.replay_trace import TracedCall, read_trace
from limiter.domain.errors import InvalidArgument

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\r\n"
CUT = Path(__file__).parents[2] / "limiter" / "data" / "azure_code_cut.csv"


def written(directory: Path, text: str, name: str = "trace.csv") -> Path:
    path = directory / name
    path.write_bytes(text.encode())
    return path


def test_a_trace_gives_seconds_after_its_first_call_and_tokens(tmp_path: Path) -> None:
    trace = written(tmp_path, HEADER + "2023-11-16 18:17:03.9799600,4808,10\r\n2023-11-16 18:17:04.4799600,0,27\r\n")
    assert read_trace(trace) == [TracedCall(0.0, 4808, 10), TracedCall(0.5, 0, 27)]


def test_times_with_a_zone_a_byte_order_mark_and_a_missing_last_line_end_are_read(tmp_path: Path) -> None:
    trace = written(
        tmp_path, "\ufeff" + HEADER + "2024-05-10 00:00:00.009930+00:00,1,2\n\n2024-05-10 01:00:01.009930+01:00,3,4"
    )
    assert read_trace(trace) == [TracedCall(0.0, 1, 2), TracedCall(1.0, 3, 4)]


def test_a_call_that_is_out_of_order_comes_at_once(tmp_path: Path) -> None:
    rows = "2023-11-16 18:17:03,1,1\n2023-11-16 18:17:05,1,1\n2023-11-16 18:17:04,1,1\n"
    assert [call.at_s for call in read_trace(written(tmp_path, HEADER + rows))] == [0.0, 2.0, 2.0]


def test_a_packed_trace_is_unpacked_whatever_its_name(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_bytes(gzip.compress((HEADER + "2023-11-16 18:17:03,5,6\n").encode()))
    assert read_trace(path) == [TracedCall(0.0, 5, 6)]


def test_a_limit_leaves_the_rest_unread(tmp_path: Path) -> None:
    trace = written(tmp_path, HEADER + "2023-11-16 18:17:03,5,6\nnonsense\n")
    assert len(read_trace(trace, limit=1)) == 1


def test_the_shipped_cut_has_1500_calls_over_ten_minutes() -> None:
    calls = read_trace(CUT)
    assert len(calls) == 1500
    assert 600 < calls[-1].at_s < 610


@pytest.mark.parametrize(
    ("row", "place", "value"),
    [
        ("2023-11-16 18:17:04,-5,6", "line 3 ContextTokens", "-5"),
        ("2023-11-16 18:17:04,NaN,6", "line 3 ContextTokens", "NaN"),
        ("2023-11-16 18:17:04,5,", "line 3 GeneratedTokens", "''"),
        ("2023-11-16 18:17:04,5,1e3", "line 3 GeneratedTokens", "1e3"),
        ("2023-11-16 18:17:04,5,6.0", "line 3 GeneratedTokens", "6.0"),
        ("2023-11-16 18:17:04,5,1_000", "line 3 GeneratedTokens", "1_000"),
        ("2023-11-16 18:17:04,٣,6", "line 3 ContextTokens", "٣"),
        ("2023-11-16 18:17:04,5,9999999999999", "line 3 GeneratedTokens", "9999999999999"),
        ("yesterday,5,6", "line 3 TIMESTAMP", "yesterday"),
        (",5,6", "line 3 TIMESTAMP", "''"),
        ("2023-11-16 18:17:04+00:00,5,6", "line 3 TIMESTAMP", "+00:00"),
        ("2023-11-16 18:17:04,5", "line 3", "2023-11-16 18:17:04,5"),
        ("2023-11-16 18:17:04,5,6,7", "line 3", "2023-11-16 18:17:04,5,6,7"),
        ('2023-11-16 18:17:04,5,"6', "line 3", "unexpected end"),
    ],
)
def test_a_bad_row_is_named_by_line_column_and_value(tmp_path: Path, row: str, place: str, value: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        read_trace(written(tmp_path, f"{HEADER}2023-11-16 18:17:03,5,6\r\n{row}"))
    assert place in str(caught.value)
    assert value in str(caught.value)


@pytest.mark.parametrize("text", ["", "2023-11-16 18:17:03,5,6\n", "time,in,out\n2023-11-16 18:17:03,5,6\n"])
def test_a_missing_header_is_told_with_the_right_one(tmp_path: Path, text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"line 1.*TIMESTAMP,ContextTokens,GeneratedTokens"):
        read_trace(written(tmp_path, text))


def test_a_trace_without_calls_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="no calls"):
        read_trace(written(tmp_path, HEADER))


@pytest.mark.parametrize("damage", ["cut off", "overwritten"])
def test_a_damaged_gzip_file_is_told(tmp_path: Path, damage: str) -> None:
    packed = bytearray(gzip.compress(CUT.read_bytes()))
    if damage == "cut off":
        del packed[len(packed) // 2 :]
    else:
        packed[len(packed) // 2 :] = bytes(len(packed) - len(packed) // 2)
    path = tmp_path / "trace.csv.gz"
    path.write_bytes(packed)
    with pytest.raises(InvalidArgument, match="damaged or cut off"):
        read_trace(path)


def test_a_file_that_is_not_text_or_not_there_is_told(tmp_path: Path) -> None:
    binary = tmp_path / "binary.csv"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidArgument, match="UTF-8"):
        read_trace(binary)
    with pytest.raises(InvalidArgument, match="No such file"):
        read_trace(tmp_path / "missing.csv")
