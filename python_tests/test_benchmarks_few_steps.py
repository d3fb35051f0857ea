"""The study of few steps says which method misses what."""

from benchmarks.few_steps import table, verdicts


def row(method, model, steps, error, distance):
    return {"method": method, "model": model, "steps": steps, "error": error, "to_data": distance, "to_teacher": 1.0}


def rows(method, error, distance):
    teacher = [row(method, "teacher", steps, 0.4 / steps, 100 / steps) for steps in (1, 2, 4, 8)]
    student = [row(method, "student", steps, error / steps, distance / steps) for steps in (1, 2, 4, 8)]
    return [*student, *teacher, row(method, "teacher", 64, 0.0, 10.0)]


def test_a_method_that_misses_is_named_with_what_it_misses():
    entries = [*rows("mean flow", 0.1, 40), *rows("shortcut", 0.3, 40), *rows("dmd2", 0.4, 80), *rows("ladd", 0.4, 40)]
    assert verdicts(entries) == {
        "mean flow": [],
        "shortcut": ["at one step 0.75 of the teacher's error"],
        "dmd2": [
            "at one step 0.80 of the teacher's distance to images",
            "at four steps 2.00 times the long run's distance to images",
        ],
        "ladd": [],
    }
    lines = table(entries).splitlines()
    assert lines[2].startswith("| teacher, Euler | 0.400, 100.0 | 0.200, 50.0 |") and len(lines) == 7
    assert lines[4].endswith("| at one step 0.75 of the teacher's error |") and lines[6].endswith("| – |")
