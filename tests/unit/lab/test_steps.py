"""Steps: done once, skipped while inputs and files are as they were, done again where not."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from meshstrap.lab.run import BuildError
from meshstrap.lab.steps import Steps, StoppedError


class Step:
    def __init__(self, file: Path) -> None:
        self.file = file
        self.times = 0

    def __call__(self) -> tuple[Any, Iterable[Path]]:
        self.times += 1
        self.file.write_text("made")
        return {"made": self.times}, [self.file]


@pytest.fixture
def step(tmp_path: Path) -> Step:
    return Step(tmp_path / "output")


def again(tmp_path: Path, step: Step, inputs: object) -> Any:
    """What the next process would do: it knows only what is on disk."""
    return Steps(tmp_path / "steps", lambda line: None).run("a step", inputs, step)


def test_done_once(tmp_path: Path, step: Step) -> None:
    assert again(tmp_path, step, {"version": 1}) == {"made": 1}
    assert again(tmp_path, step, {"version": 1}) == {"made": 1}
    assert step.times == 1


def test_done_again_for_other_inputs(tmp_path: Path, step: Step) -> None:
    again(tmp_path, step, {"version": 1})
    assert again(tmp_path, step, {"version": 2}) == {"made": 2}


def test_done_again_when_its_file_is_gone_or_other(tmp_path: Path, step: Step) -> None:
    again(tmp_path, step, 1)
    step.file.unlink()
    assert again(tmp_path, step, 1) == {"made": 2}
    step.file.write_text("tampered with")
    assert again(tmp_path, step, 1) == {"made": 3}


def test_a_damaged_record_is_no_record(tmp_path: Path, step: Step) -> None:
    again(tmp_path, step, 1)
    (record,) = (tmp_path / "steps").iterdir()
    record.write_text('{"key":')
    assert again(tmp_path, step, 1) == {"made": 2}


def test_a_failed_step_is_not_done_and_stops_the_others(tmp_path: Path, step: Step) -> None:
    steps = Steps(tmp_path / "steps", lambda line: None)

    def fail() -> tuple[Any, Iterable[Path]]:
        raise BuildError("no compiler")

    with pytest.raises(BuildError, match="no compiler"):
        steps.run("failing", 1, fail)
    with pytest.raises(StoppedError):
        steps.run("a step", 1, step)
    assert step.times == 0
    assert again(tmp_path, step, 1) == {"made": 1}


def test_it_says_what_it_does(tmp_path: Path, step: Step) -> None:
    said: list[str] = []
    steps = Steps(tmp_path / "steps", said.append)
    steps.run("a step", 1, step)
    steps.run("a step", 1, step)
    assert steps.done == 1
    assert len(said) == 2 and said[0].endswith("a step ...") and "a step: done in 0.0 s" in said[1]
