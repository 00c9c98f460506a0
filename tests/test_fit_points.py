"""Reading measured points: every public layout, what is left out and why, and what a wrong file is told."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from simcache.errors import InputError
from simcache.latency.points import read_points

OURS = "kind,new_tokens,cached_tokens,batch,kv_tokens,seconds\n"
SERVER = "kind,prompt_tokens,prompt_n,cache_n,ttft_ms,predicted_n,predicted_ms,server_runq_wait_ms\n"


def write(folder: Path, text: str, name: str = "p.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_our_own_layout_holds_every_kind_of_point(tmp_path: Path) -> None:
    rows = "prefill,512,1024,,,0.05\ndecode,,,4,4096,0.02\nmixed,256,0,4,4096,0.06\nhost,,,8,,0.0037\ncopy,,,,,0.1\n"
    found = read_points([write(tmp_path, OURS + rows)])
    assert found.prefill == [(512.0, 1024.0, 0.05)]
    assert found.decode == [(4.0, 4096.0, 0.02)]
    assert found.mixed == [(256.0, 0.0, 4.0, 4096.0, 0.06)]
    assert found.host == [(8.0, 0.0037)]
    assert sum(found.dropped.values()) == 1
    assert [column.tolist() for column in found.columns("decode")] == [[4.0], [4096.0], [0.02]]


def test_rows_that_were_not_measured_are_left_out_unless_asked_for(tmp_path: Path) -> None:
    text = "model,tp,new_tokens,context_tokens,latency_s,source\na,1,64,0,0.1,measured: x\na,1,64,8,0.2,interpolated\n"
    path = write(tmp_path, text)
    assert read_points([path]).prefill == [(64.0, 0.0, 0.1)]
    assert read_points([path]).dropped == {"source does not begin with measured": 1}
    assert len(read_points([path], include_interpolated=True).prefill) == 2


def test_where_chooses_rows_and_says_what_there_is(tmp_path: Path) -> None:
    text = "model,tp,isl,prompt_time_ms_median\na,1,512,10\na,2,512,6\nb,1,512,30\n"
    path = write(tmp_path, text)
    assert read_points([path], {"model": "a", "tp": "2.0"}).prefill == [(512.0, 0.0, 0.006)]
    with pytest.raises(InputError, match="Choose one with --where model=a"):
        read_points([path])
    with pytest.raises(InputError, match=r"It holds model: a, b\."):
        read_points([path], {"model": "c"})
    with pytest.raises(InputError, match="Did you mean 'model'"):
        read_points([path], {"modle": "a"})
    with pytest.raises(InputError, match="no usable row"):
        read_points([path], {"model": "a", "tp": "1"}, min_new=1000)


def test_a_server_s_rows_are_taken_as_the_server_counted_them(tmp_path: Path) -> None:
    rows = "prime,512,512,0,400,1,0,1\ncached,528,16,512,22,2,3,1\ncached,513,1,512,4,2,3,1\ndecode,128,128,0,96,64,126,2\n"
    found = read_points([write(tmp_path, SERVER + rows)])
    assert found.prefill == [(16.0, 512.0, 0.022), (128.0, 0.0, 0.096)]
    assert found.decode == [(1.0, 160.0, pytest.approx(0.002))]
    assert list(found.dropped.values()) == [1, 1]


def test_batches_give_decode_steps_once_all_have_begun(tmp_path: Path) -> None:
    steps = [100 + 5 * i for i in range(24)]
    late = [200 + 7 * i for i in range(24)]
    text = "rep,n,k,ttft_ms,cache_n,token_times_ms\n"
    for times in (steps, late):
        text += f"0,64,2,{times[0]},0,{' '.join(map(str, times))}\n"
    text += "0,64,1,50,0," + " ".join(str(50 + 2 * i) for i in range(24)) + "\n"
    found = read_points([write(tmp_path, text)])
    assert found.prefill == [(64.0, 0.0, 0.05)]
    ((batch, kv, step_s),) = found.decode if len(found.decode) == 1 else found.decode[-1:]
    assert (batch, step_s) == (1.0, pytest.approx(0.002))
    assert 64 < kv < 88
    assert sum(found.dropped.values()) == 2  # only three tokens of the pair decode beside each other


def test_every_public_file_is_read(shared_data: Path) -> None:
    gpu, cpu = shared_data / "gpu", shared_data / "cpu_engine"
    model = {"model": "Llama-2-70b"}
    assert len(read_points([gpu / "prefill_points_a100.csv.gz"], model).prefill) == 4206
    both = read_points([gpu / "prefill_points_a100.csv.gz", gpu / "decode_points_a100.csv.gz"], model)
    assert (len(both.prefill), len(both.decode)) == (4206, 1501)
    sums = read_points([gpu / "kernel_sum_prefill.csv"], {"model": "Qwen/Qwen3-32B", "gpu": "h100"})
    assert sums.kernel_sums
    assert len(sums.prefill) == 11
    assert len(read_points([gpu / "engine_prompt_times.csv"], {"gpu": "h100-80gb", "tp": "8"}).prefill) == 7
    found = read_points(sorted(cpu.glob("A_*.csv.gz")))
    assert found.dropped["kind=prime only creates a prefix"] == 4
    assert {batch for batch, _, _ in found.decode} == {1.0, 2.0, 3.0, 4.0}
    with pytest.raises(InputError, match="has no column"):
        read_points([gpu / "serving_runs.csv"])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "has no column"),
        ("a,b\n1,2\n", "has no column"),
        ("new_tokens,context_tokens\n1,2\n", "has no column latency_s"),
        (
            "new_tokens,context_tokens,latency_ms\n1,2,3\n",
            r"column\(='latency_ms'\) has the wrong unit: the column must be latency_s",
        ),
        ("new_tokens,context_tokens,latency_s,latency_ms\n1,2,3,3\n", "stands beside latency_s"),
        (OURS.replace("seconds", "ms") + "prefill,1,0,,,3\n", "the column must be seconds"),
        ("new_tokens,context_tokens,latency_s\n64,0,nan\n", r"p.csv:2: latency_s\(=nan\) must be finite"),
        ("new_tokens,context_tokens,latency_s\n64,0,0\n", r"p.csv:2: latency_s\(=0.0\) must be above 0"),
        ("new_tokens,context_tokens,latency_s\n64,0,-1\n", "must be above 0"),
        ("new_tokens,context_tokens,latency_s\n64,-1,1\n", "must be at least 0"),
        ("new_tokens,context_tokens,latency_s\n64,0,1\n64,x,1\n", r"p.csv:3: context_tokens\(='x'\) must be a number"),
        ("new_tokens,context_tokens,latency_s\n64,0\n", "one cell per column"),
        ("new_tokens,context_tokens,latency_s\n64,0,1,2\n", "one cell per column"),
        ("new_tokens,context_tokens,latency_s\n", "no usable row"),
        ("new_tokens,new_tokens,latency_s\n1,1,1\n", "different names"),
        (OURS + "prefil,1,0,,,3\n", "Did you mean 'prefill'"),
        ("isl,prefix,ttft_ms\n512,512,3\n", r"prefix\(='512'\) must be below isl"),
        ("rep,n,k,ttft_ms,cache_n,token_times_ms\n0,1,1,3,0,a b\n", "numbers with spaces between"),
    ],
)
def test_a_wrong_file_is_refused_with_its_line(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        read_points([write(tmp_path, text)])


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_points([tmp_path / "absent.csv"])
    (tmp_path / "not.csv.gz").write_bytes(b"plain")
    with pytest.raises(InputError, match="cannot be read"):
        read_points([tmp_path / "not.csv.gz"])
    cut = gzip.compress(b"new_tokens,context_tokens,latency_s\n" + b"64,0,1\n" * 999)[:-20]
    (tmp_path / "cut.csv.gz").write_bytes(cut)
    with pytest.raises(InputError, match=r"CSV|read"):
        read_points([tmp_path / "cut.csv.gz"])
    (tmp_path / "latin.csv").write_bytes(b"new_tokens,context_tokens,latency_s\n\xff\xfe,1,1\n")
    with pytest.raises(InputError):
        read_points([tmp_path / "latin.csv"])


def test_mixed_units_in_one_column_are_told(tmp_path: Path) -> None:
    from simcache.latency import LatencyModel

    n = np.array([256.0, 512, 1024, 2048, 4096, 8192, 600, 900])
    y = 0.01 + 1e-4 * n
    y[[2, 5]] *= 1000
    with pytest.raises(InputError, match="Are units mixed"):
        LatencyModel().fit(n, 0 * n, y)
