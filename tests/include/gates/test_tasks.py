"""Tasks with known answers: how they are read and judged, and the verdict by NVIDIA's rule."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from include.errors import UserError
from include.gates import AnsweredTask, Client, GateResult, NoAnswer, Trial, check_tasks, read_answered
from include.gates.evidence import Evidence, Policy, judge, student
from include.gates.tasks import Tasks
from include.stages.calibrate.tasks import BUILTIN_FILE, MOST_TASKS
from include.triton.client import Endpoint

GOOD = {"prompt": "What is 2 + 2?", "expected": "4", "judge": "contains"}
RIGHT, WRONG = "it is right", "no idea"


class Candidate(Client):
    """An endpoint with one answer to each prompt, and wrong ones to all others."""

    answers: dict[str, str]

    def text(self, prompt: str, **options: Any) -> str:
        if prompt == "silent":
            raise NoAnswer("HTTP 500")
        assert options == {"max_tokens": 8}
        return self.answers.get(prompt, WRONG)


@pytest.fixture
def candidate() -> Iterator[Candidate]:
    with Candidate.open(Endpoint(host="127.0.0.1", http_port=1, grpc_port=1)) as client:
        object.__setattr__(client, "answers", {})
        yield client


def task(prompt: str = "p", original: str | None = RIGHT, **fields: Any) -> AnsweredTask:
    known = {"expected": "right", "judge": "contains", "max_tokens": 8, "chat": False, "prompt_tokens": 5}
    return AnsweredTask(**{**known, **fields}, prompt=prompt, original=original)


def judged(candidate: Candidate, before: list[bool], after: list[bool], **limits: float) -> GateResult:
    tasks = tuple(task(f"p{n}", RIGHT if right else WRONG) for n, right in enumerate(before))
    candidate.answers.update({f"p{n}": RIGHT if right else WRONG for n, right in enumerate(after)})
    return Tasks(**limits).judge(Trial(candidate, (), streaming=False, tasks=tasks))


def lines(path: Path, *tasks: object) -> Path:
    path.write_text("".join(f"{one if isinstance(one, str) else json.dumps(one)}\n" for one in tasks))
    return path


def test_the_tasks_that_come_along_are_good_and_enough_for_the_rule() -> None:
    tasks = check_tasks(BUILTIN_FILE)
    assert 20 <= len(tasks) <= 30
    assert {task.judge for task in tasks} == {"contains", "choice", "regex"}
    assert len({task.prompt for task in tasks}) == len(tasks)


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        pytest.param("{", "Invalid JSON", id="no JSON"),
        pytest.param("[1]", "Input should be an object", id="a list"),
        pytest.param('"text"', "Input should be an object", id="a string"),
        pytest.param("[" * 9999, "Invalid JSON", id="deep"),
        pytest.param({"prompt": "p"}, "field expected: Field required", id="no answer"),
        pytest.param(GOOD | {"expected": 4}, "field expected: Input should be a valid string", id="a number"),
        pytest.param(GOOD | {"expected": " "}, "field expected", id="a blank answer"),
        pytest.param(GOOD | {"prompt": ""}, "field prompt", id="an empty prompt"),
        pytest.param(GOOD | {"answer": "4"}, "field answer: Extra inputs", id="an unknown field"),
        pytest.param(GOOD | {"judge": "fuzzy"}, "field judge: Input should be 'exact', 'contains'", id="a judge"),
        pytest.param(GOOD | {"judge": "choice"}, "judge choice needs the field choices", id="no choices"),
        pytest.param(GOOD | {"choices": ["4"]}, "judge choice needs the field choices", id="choices alone"),
        pytest.param(GOOD | {"judge": "choice", "choices": ["1", "2"]}, "one of the choices", id="none of them"),
        pytest.param(GOOD | {"judge": "choice", "choices": ["4"]}, "two or more", id="one choice"),
        pytest.param(GOOD | {"judge": "choice", "choices": ["4", "5", "4 "]}, "different", id="a choice twice"),
        pytest.param(
            GOOD | {"expected": "a", "judge": "choice", "choices": ["A", "a"]}, "different", id="choices by case"
        ),
        pytest.param(GOOD | {"max_tokens": 0}, "field max_tokens", id="no tokens"),
        pytest.param(GOOD | {"max_tokens": 10**6}, "field max_tokens", id="many tokens"),
        pytest.param(GOOD | {"judge": "regex", "expected": "("}, "missing \\)", id="an open group"),
        pytest.param(GOOD | {"judge": "regex", "expected": "(?=4)"}, "no lookaround", id="a lookahead"),
        pytest.param(GOOD | {"judge": "regex", "expected": r"(4)\1"}, "no regular expression", id="a back-reference"),
        pytest.param(GOOD | {"judge": "regex", "expected": "((4{99}){99}){99}"}, "no regular", id="a huge one"),
        pytest.param(GOOD | {"prompt": "p" * 30_000}, "field prompt", id="a long prompt"),
    ],
)
def test_a_line_that_is_no_task_is_named(tmp_path: Path, bad: object, problem: str) -> None:
    path = lines(tmp_path / "tasks.jsonl", GOOD, "", bad)
    with pytest.raises(UserError, match=problem) as failed:
        check_tasks(path)
    assert failed.value.where == f"field task_data: {path}, line 3"
    assert '{"prompt": ' in failed.value.fix


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        pytest.param(b"", "has no task", id="empty"),
        pytest.param(b"\n \n", "has no task", id="blank lines"),
        pytest.param(b"\xff\xfe", "codec can't decode", id="not UTF-8"),
        pytest.param(b"\0", "zero byte", id="a program"),
        pytest.param(b"x" * (1 << 19), "a line of more than", id="a long line"),
        pytest.param(
            b"".join(json.dumps(GOOD | {"prompt": str(n)}).encode() + b"\n" for n in range(MOST_TASKS + 1)),
            "more than 2000 tasks",
            id="too many",
        ),
        pytest.param((json.dumps(GOOD) + "\n").encode() * 2, "the same task as line 1", id="a task twice"),
        pytest.param(None, "No such file", id="none"),
    ],
)
def test_a_file_that_has_no_tasks_is_refused(tmp_path: Path, content: bytes | None, problem: str) -> None:
    path = tmp_path / "tasks.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=problem) as failed:
        check_tasks(path)
    assert str(path) in failed.value.where


def test_a_file_from_windows_is_read(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r\n\r\n")
    assert [task.prompt for task in check_tasks(path)] == [GOOD["prompt"]]


def test_tasks_that_the_original_does_not_solve_are_said_to_say_nothing(candidate: Candidate) -> None:
    assert "say nothing of this model" in judged(candidate, [False] * 30, [True] * 30).found
    assert "say nothing" not in judged(candidate, [True] + [False] * 29, [False] * 30).found


def test_a_directory_is_no_file_of_tasks(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Is a directory"):
        check_tasks(tmp_path)


@pytest.mark.parametrize(
    ("judge", "expected", "answer", "right"),
    [
        ("exact", "Paris", " paris\n", True),
        ("exact", "Paris", "Paris.", False),
        ("contains", "4", "It is 4.", True),
        ("contains", "4", "It is 14.", False),
        ("contains", "New York", "in new\n york city", True),
        ("contains", "C++", "I like C++!", True),
        ("contains", "(a", "f(a", False),
        ("contains", "4", "", False),
        ("exact", "caf\u00e9", "CAFE\u0301", True),
        ("contains", "4", "It is 4.5.", False),
        ("contains", "4", "It is 2.4", False),
        ("contains", "1", "1,000", False),
        ("contains", "4", "x = -4", False),
        ("contains", "4", "8-4", True),
        ("contains", "4", "4, 5", True),
        ("contains", "-4", "x = -4.", True),
        ("contains", "1,000", "It is 1,000.", True),
        ("contains", "\u5df4\u9ece", "\u6cd5\u56fd\u7684\u9996\u90fd\u662f\u5df4\u9ece\u3002", True),
        ("contains", "4", "\u7b54\u6848\u662f4\u3002", True),
        ("contains", "4", "\u7b54\u6848\u662f14\u3002", False),
        ("contains", "\u6771\u4eac", "\u6771\u4eac\u3067\u3059", True),
        ("contains", "\ud55c\uad6d", "\ud55c\uad6d\uc5b4", False),
        ("contains", "Paris", "Parisian", False),
        ("choice", "B", "The answer is B, not A.", True),
        ("choice", "B", "A. No, B.", False),
        ("choice", "B", "Because", False),
        ("choice", "B", "I cannot say", False),
        ("choice", "A and B", "A and B", True),
        ("regex", "7|seven", "There are Seven days", True),
        ("regex", "^4$", "44", False),
        ("regex", "^4$", " 4\n", True),
        ("regex", "(?s)^a.b$", "a\nb", True),
        ("regex", "^cafe\u0301$", "caf\u00e9", True),
        ("regex", "1, ?2", "1,2", True),
        pytest.param("regex", "(a+)+$", "a" * 1000 + "b", False, id="one that others would try for ever"),
    ],
)
def test_four_ways_to_judge(judge: str, expected: str, answer: str, right: bool) -> None:
    choices = ("A", "B", "A and B") if judge == "choice" else ()
    assert task(judge=judge, expected=expected, choices=choices).is_right(answer) is right


@pytest.mark.parametrize(
    ("before", "after", "limits", "rating", "outcome"),
    [
        pytest.param([True] * 30, [True] * 30, {"max_drop": 0}, "GO", "pass", id="all the same"),
        pytest.param([False] * 30, [False] * 30, {"max_drop": 0}, "GO", "pass", id="all wrong, before and after"),
        pytest.param([False] * 30, [True] * 30, {"max_drop": 0}, "GO", "pass", id="better"),
        pytest.param([True] * 30, [False] * 30, {}, "NO-GO", "fail", id="all lost"),
        pytest.param([True] * 30, [True] * 26 + [False] * 4, {}, "GO", "pass", id="four of thirty lost"),
        pytest.param(
            [True] * 30, [True] * 26 + [False] * 4, {"max_drop": 0.02}, "INCONCLUSIVE", "ask", id="too few to tell"
        ),
        pytest.param([True] * 9, [True] * 9, {}, "INCONCLUSIVE", "ask", id="nine pairs"),
        pytest.param(
            [True] * 3 + [False] * 97,
            [True] * 2 + [False] * 98,
            {"max_relative_drop": 0.2, "guard_below": 0.2},
            "NO-GO",
            "fail",
            id="a third of a low score is lost",
        ),
        pytest.param(
            [True] * 90 + [False] * 10,
            [True] * 60 + [False] * 40,
            {"max_drop": 0.5, "max_relative_drop": 0.2, "guard_below": 0.2},
            "GO",
            "pass",
            id="the guard is for low scores",
        ),
    ],
)
def test_the_verdict(
    candidate: Candidate, before: list[bool], after: list[bool], limits: dict[str, float], rating: str, outcome: str
) -> None:
    verdict = judged(candidate, before, after, **limits)
    assert (verdict.rating, verdict.outcome) == (rating, outcome)


def test_the_interval_is_that_of_the_paired_differences() -> None:
    # By hand: 4 of 10 lost, 1 won: mean 0.3, standard deviation 0.6749, t(9) 2.2622.
    low, high = Evidence([True] * 4 + [False] * 6, [False] * 4 + [True] + [False] * 5).interval
    assert (round(low, 3), round(high, 3)) == (-0.183, 0.783)


@pytest.mark.parametrize(("freedom", "value"), [(9, 2.2622), (19, 2.0930), (29, 2.0452), (99, 1.9842), (999, 1.9623)])
def test_students_quantiles_are_those_of_the_tables(freedom: int, value: float) -> None:
    assert student(0.95, freedom) == pytest.approx(value, abs=1e-4)


def test_a_relative_drop_of_all_is_not_looked_at() -> None:
    lost = Evidence([True] * 30, [False] * 30)
    assert judge(lost, Policy(max_drop=1, max_relative_drop=1, guard_below=1))[0] == "GO"
    assert judge(lost, Policy(max_drop=1, max_relative_drop=0.99, guard_below=1))[0] == "NO-GO"


def test_what_was_lost_is_shown_first_with_the_originals_answer(candidate: Candidate) -> None:
    verdict = judged(candidate, [True, False, False] + [True] * 9, [True, True, False] + [True] * 8 + [False])
    first, second, third, *_ = verdict.samples
    assert (first.prompt, first.answer, first.original, first.ok) == ("p11", WRONG, RIGHT, False)
    assert [second.note, third.note] == ["won by the candidate", "wrong before and after"]
    assert verdict.found.startswith("10 of 12 right before, 10 after: 1 lost, 1 won")
    assert verdict.measured["damage"] == 0
    assert verdict.measured["damage_high"] == -verdict.measured["damage_low"] > 0


def test_only_tasks_in_the_endpoints_form_and_limits_are_asked(candidate: Candidate) -> None:
    candidate.answers.update({f"p{n}": RIGHT for n in range(12)})
    fitting = [task(f"p{n}") for n in range(12)]
    others = (task("chat", chat=True), task("long", prompt_tokens=99), task("longer", max_tokens=96), task("x", None))
    trial = Trial(candidate, (), streaming=False, tasks=(*fitting, *others), max_input_len=90, max_seq_len=100)
    verdict = Tasks().judge(trial)
    assert verdict.outcome == "pass"
    assert verdict.found.endswith("4 tasks are too long for it")


def test_without_tasks_the_gate_is_skipped(candidate: Candidate) -> None:
    assert Tasks().judge(Trial(candidate, (), streaming=False)).outcome == "skip"


def test_an_endpoint_that_does_not_answer_fails(candidate: Candidate) -> None:
    with pytest.raises(NoAnswer):
        Tasks().judge(Trial(candidate, (), streaming=False, tasks=(task("silent"),)))


def test_the_file_of_the_program_is_read(tmp_path: Path) -> None:
    answered = task().model_dump(mode="json")
    (tmp_path / "tasks.json").write_text(json.dumps({"tasks": [answered]}))
    assert read_answered(tmp_path) == (task(),)
