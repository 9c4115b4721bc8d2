"""Recordings in our own format, and small made-up files in those of others."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celery_dynprio.errors import ArgumentError, RecordingError
from celery_dynprio.lab.formats import azure, borg, jsonl, swf
from celery_dynprio.lab.formats.opening import Options, format_of, open_recording, save_recording
from celery_dynprio.lab.recording import Entry, FailedTry, Slots, Task, extent
from celery_dynprio.lab.users import Tier, Users, share_of, tiers

FULL = Task(
    1.5, "a", 2.25, "k", 3.0, 9.0, 1.0, 2, 4, (FailedTry(0.5, 10.0),), "failure", 0.75, "celery@host", 3, 2
)  # fmt: skip


@pytest.mark.parametrize("name", ["recording.jsonl", "recording.jsonl.gz"])
def test_what_is_written_is_read_again(tmp_path: Path, name: str) -> None:
    entries: list[Entry] = [Slots(1.0, "one", 8), FULL, Task(2.0, "b", 0.0), Slots(3.0, "one", 0)]
    jsonl.write(tmp_path / name, entries)
    assert list(jsonl.read(tmp_path / name)) == entries


def test_a_plain_task_takes_a_short_line_and_a_file_is_the_same_each_time(tmp_path: Path) -> None:
    jsonl.write(tmp_path / "a.jsonl", [Task(2.0, "b", 0.5)])
    assert (tmp_path / "a.jsonl").read_text().splitlines()[1] == '{"at":2.0,"name":"b","run":0.5}'
    for name in ("a.jsonl.gz", "b.jsonl.gz"):
        jsonl.write(tmp_path / name, [FULL])
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()


numbers = st.floats(0, 1e9).map(lambda value: round(value, 6))
tasks = st.builds(
    Task,
    numbers,
    st.text(min_size=1),
    numbers,
    st.none() | st.text(),
    st.floats(0, 10),
    st.none() | numbers,
    st.none() | numbers,
    st.integers(0, 99),
    st.none() | st.integers(0, 9),
    st.lists(st.builds(FailedTry, numbers, numbers), max_size=3).map(tuple),
    st.sampled_from(["success", "failure", "cancelled"]),
    st.none() | numbers,
    st.none() | st.text(),
    st.none() | st.integers(0, 9),
    st.none() | st.integers(0, 9),
)


@settings(max_examples=30)
@given(st.lists(tasks, max_size=5))
def test_any_task_comes_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, found: list[Task]) -> None:
    path = tmp_path_factory.mktemp("recording") / "recording.jsonl"
    jsonl.write(path, found)
    assert list(jsonl.read(path)) == sorted(found, key=lambda task: task.at)


def test_lines_are_put_in_order_and_unknown_ones_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "recording.jsonl"
    jsonl.write(path, [Task(2.0, "b", 1.0), Task(1.0, "a", 1.0)])
    with path.open("a") as file:
        file.write('{"at": 5, "op": "pause", "by": "me"}\n')
    assert [entry.at for entry in jsonl.read(path)] == [1.0, 2.0]


@given(st.lists(st.integers(0, 30)))
def test_lines_may_be_out_of_order_by_as_much_as_they_like(
    tmp_path_factory: pytest.TempPathFactory, times: list[int]
) -> None:
    path = tmp_path_factory.mktemp("recording") / "recording.jsonl"
    jsonl.write(path, [Task(float(at), str(number), 1.0) for number, at in enumerate(times)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jsonl, "REORDER", 2)
        recording = jsonl.JsonLines(path)
        for _ in range(2):
            assert [entry.at for entry in recording()] == sorted(times)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("nonsense", "not JSON: Expecting value"),
        ('{"name": "a", "run": 1}', "KeyError\\('at'\\)"),
        ('{"name": "a", "at": "x", "run": 1}', "at is 'x', not a finite number"),
        ('{"name": "a", "at": 1, "run": NaN}', "run is nan"),
        ('{"name": "a", "at": 1, "run": -1}', "must not be negative"),
        ('{"name": "a", "at": 1, "run": 1, "failed": [[1]]}', "not enough values"),
        ('{"at": 1, "slots": -1}', "slots is -1"),
        ("[]", "not a JSON object"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, problem: str) -> None:
    path = tmp_path / "recording.jsonl"
    path.write_text('{"format": "celery-dynprio-recording", "version": 1}\n' + line + "\n")
    with pytest.raises(RecordingError, match=f"recording.jsonl, line 2: .*({problem})"):
        list(jsonl.read(path))


@pytest.mark.parametrize("header", ["{}", '{"format": "celery-dynprio-recording", "version": 2}'])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, header: str) -> None:
    (tmp_path / "recording.jsonl").write_text(header + "\n")
    with pytest.raises(RecordingError, match="line 1"):
        list(jsonl.read(tmp_path / "recording.jsonl"))


def test_a_file_that_cannot_be_read_or_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "recording.jsonl.gz").write_text("not compressed")
    for path in (tmp_path / "recording.jsonl.gz", tmp_path / "missing.swf"):
        with pytest.raises(RecordingError, match=f"{path.name}: cannot be read"):
            list(open_recording(path)())
    with pytest.raises(RecordingError, match="cannot be written"):
        save_recording(tmp_path / "no" / "recording.jsonl", [])


SWF = """; Version: 2.2
; UnixStartTime: 1000

 1  0 5  10 4 -1 -1 4 -1 -1  1 7 2  3 1 -1 -1 -1
 2 10 -1 20 1 -1 -1 1 -1 -1  0 8 2 -1 1 -1 -1 -1
 3 15 -1 -1 1 -1 -1 1 -1 -1  5 8 2 -1 1 -1 -1 -1
 4 20 -1  2 1 -1 -1 1 -1 -1 -1 -1 -1 -1 -1 -1 -1 -1
"""


def test_standard_workload_format(tmp_path: Path) -> None:
    (tmp_path / "log.swf").write_text(SWF)
    assert list(swf.read(tmp_path / "log.swf", Users())) == [
        Task(1000.0, "app-3", 10.0, "7", waited=5.0),
        Task(1010.0, "queue-1", 20.0, "8", outcome="failure"),
        Task(1020.0, "job", 2.0),
    ]
    assert [task.key for task in swf.read(tmp_path / "log.swf", Users(), "group")] == ["2", "2", None]


@pytest.mark.parametrize(
    ("line", "problem"),
    [("1 2 3", "3 columns instead of 18"), ("x " * 18, "could not convert"), (SWF.splitlines()[3], "submitted before")],
)
def test_a_wrong_job_is_named(tmp_path: Path, line: str, problem: str) -> None:
    (tmp_path / "log.swf").write_text(SWF + line + "\n")
    with pytest.raises(RecordingError, match=f"line 8: .*{problem}"):
        list(swf.read(tmp_path / "log.swf", Users()))


def test_a_trace_written_in_standard_workload_format(tmp_path: Path) -> None:
    save_recording(tmp_path / "log.swf.gz", [Slots(0.0, "one", 1), FULL, Task(3.5, "b", 1.0, "k"), Task(4.5, "a", 1.0)])
    with gzip.open(tmp_path / "log.swf.gz", "rt") as file:
        lines = file.read().splitlines()
    assert lines[1] == "; UnixStartTime: 2"
    assert [len(line.split()) for line in lines[2:]] == [18, 18, 18]
    assert list(swf.read(tmp_path / "log.swf.gz", Users())) == [
        Task(1.5, "app-1", 2.75, "1", outcome="failure", waited=0.75),
        Task(3.5, "app-2", 1.0, "1"),
        Task(4.5, "app-1", 1.0),
    ]


def azure_files(folder: Path, counts: list[str], runs: str = "0,10,25,50,75,99,100") -> Path:
    minutes = [*counts, *["0"] * (1440 - len(counts))]
    path = folder / "invocations_per_function_md.anon.d01.csv"
    header = ["HashOwner,HashApp,HashFunction,Trigger", *map(str, range(1, 1441))]
    path.write_text("\n".join([",".join(header), f"owner,app,function,http,{','.join(minutes)}", ""]))
    percentiles = ",".join(f"percentile_Average_{each}" for each in (0, 1, 25, 50, 75, 99, 100))
    (folder / "function_durations_percentiles.anon.d01.csv").write_text(
        f"HashOwner,HashApp,HashFunction,Average,Count,Minimum,Maximum,{percentiles}\n"
        f"owner,app,function,50,3,0,100,{runs}\n"
    )
    return path


def test_azure_functions(tmp_path: Path) -> None:
    path = azure_files(tmp_path, ["0", "2", "1"])
    found = list(azure.read(path, Users(tiers("5:1"))))
    assert [int(task.at // 60) for task in found] == [1, 1, 2]
    assert found == sorted(found) == list(azure.read(path, Users(tiers("5:1"))))
    assert {(task.name, task.key, task.weight) for task in found} == {("function", "owner", 5.0)}
    assert all(0 <= task.run <= 0.1 for task in found)
    assert list(azure.read(path, Users(), sample=share_of("sample", "function"))) == []


def test_azure_functions_with_wrong_columns(tmp_path: Path) -> None:
    path = azure_files(tmp_path, ["1"], runs="0,10,x,50,75,99,100")
    with pytest.raises(RecordingError, match=r"function_durations_percentiles.*line 2: .*'x'"):
        list(azure.read(path, Users()))
    path = azure_files(tmp_path, ["many"])
    with pytest.raises(RecordingError, match=r"invocations_per_function.*line 2: .*'many'"):
        list(azure.read(path, Users()))
    path.write_text("HashOwner\n")
    with pytest.raises(RecordingError, match="has no column 'HashFunction'"):
        list(azure.read(path, Users()))


BORG = """time,type,collection_id,instance_index,priority,user
0,SUBMIT,9,0,200,early
1000000,SUBMIT,1,0,25,ann
2000000,0,1,1,200,
3000000,SCHEDULE,1,0,25,ann
4000000,3,1,1,200,
5000000,EVICT,1,0,25,ann
6000000,SCHEDULE,1,0,25,ann
6500000,6,1,1,200,
8000000,KILL,1,0,25,ann
8000000,SUBMIT,2,0,25,ann
8500000,SUBMIT,3,0,400,bob
8600000,FAIL,3,0,400,bob
9223372036854775807,FINISH,2,0,25,ann
"""


def test_google_borg(tmp_path: Path) -> None:
    path = tmp_path / "instance_events.csv"
    path.write_text(BORG)
    assert list(borg.read(path, Users())) == [
        Task(1.0, "collection-1", 2.0, "ann", 1.0, failed=(FailedTry(2.0, 0.0),), outcome="cancelled", waited=2.0),
        Task(2.0, "collection-1", 2.5, "collection-1", 8.0, waited=2.0),
    ]
    assert {task.weight for task in borg.read(path, Users(tiers("3:1")))} == {3.0}
    path.write_text(BORG + "x,SUBMIT,1,0,25,ann\n")
    with pytest.raises(RecordingError, match="line 15"):
        list(borg.read(path, Users()))


def test_the_name_of_a_file_tells_its_format() -> None:
    names = ["a.swf", "a.SWF.gz", "a.jsonl", "a.ndjson.gz", "invocations_per_function_md.anon.d01.csv"]
    names.append("instance_events-1.csv")
    assert [format_of(Path(name)) for name in names] == ["swf", "swf", "jsonl", "jsonl", "azure", "borg"]
    with pytest.raises(ArgumentError, match="say which of jsonl, swf, azure, borg it is"):
        open_recording(Path("recording.csv"))
    with pytest.raises(ArgumentError, match="can be written"):
        save_recording(Path("instance_events.csv"), [])


def test_options_reach_their_reader(tmp_path: Path) -> None:
    (tmp_path / "log").write_text(SWF)
    options = Options(Users(tiers("9:1:1m"), 1), "group")
    found = [task for task in open_recording(tmp_path / "log", "swf", options)() if isinstance(task, Task)]
    assert {(task.key, task.weight, task.deadline) for task in found} == {("key-0", 9.0, 60.0), (None, 9.0, 60.0)}


def test_tiers() -> None:
    assert tiers("9:0.1:30s, 5:.3,1:0.6") == (Tier(9, 0.1, 30.0), Tier(5, 0.3), Tier(1, 0.6))
    for wrong in ("", "9", "11:0.5", "5:0", "5:1.5", "5:1:soon", "a:b", "1:1:1:1"):
        with pytest.raises(ArgumentError, match="weight:share"):
            tiers(wrong)


def test_users_are_shared_out_and_stay_where_they_are() -> None:
    users = Users(tiers("9:0.1,1:0.9"), keys=10)
    weights = [tier.weight for number in range(2000) if (tier := users.tier(str(number)))]
    assert weights.count(9.0) == pytest.approx(200, abs=50)
    assert {users.key(str(number)) for number in range(2000)} == {f"key-{number}" for number in range(10)}
    assert users.tier("ann") == users.tier("ann")
    assert (Users().tier("ann"), Users().key("ann")) == (None, "ann")


def test_the_extent_of_a_recording() -> None:
    found = extent([Slots(0.0, "one", 1), Task(1.0, "a", 4.0), Task(5.0, "a", 4.0, failed=(FailedTry(8.0, 1.0),))])
    assert (found.tasks, found.seconds, found.work, found.has_slots) == (2, 4.0, 16.0, True)
    assert found.load(2) == pytest.approx(2.0)
    assert extent([]).load(2) == 0.0
