import multiprocessing

from lora_studio.core.looks import Looks


def test_findings_are_kept_by_content_and_kind(tmp_path):
    looks = Looks(tmp_path)
    assert looks.get("faces-1", ["a"]) == {}
    looks.put("faces-1", {"a": b"[]", "b": b"[1]"})
    looks.put("faces-2", {"a": b"new"})
    assert Looks(tmp_path).get("faces-1", ["a", "b", "c"]) == {"a": b"[]", "b": b"[1]"}
    assert looks.get("faces-2", ["a", "b"]) == {"a": b"new"}
    looks.put("faces-1", {"a": b"again"})
    assert looks.get("faces-1", ["a"]) == {"a": b"again"}


def test_a_damaged_file_is_begun_anew(tmp_path):
    looks = Looks(tmp_path)
    looks.put("faces-1", {"a": b"1"})
    for path in looks.path.parent.glob("looks.db*"):
        path.write_bytes(b"this is no database" * 1000)
    assert looks.get("faces-1", ["a"]) == {}
    looks.put("faces-1", {"a": b"2"})
    assert looks.get("faces-1", ["a"]) == {"a": b"2"}


def _put(folder, start):
    for number in range(start, start + 20):
        Looks(folder).put("n-1", {str(number): b"x"})


def test_two_processes_keep_findings_at_once(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=_put, args=(tmp_path, start)) for start in (0, 20)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert len(Looks(tmp_path).get("n-1", map(str, range(40)))) == 40
