"""Words of other programs: each answer is something that can be typed."""

from __future__ import annotations

import shlex

import pytest

from warmstart.config import ConfigError, get_cfg, parse_command_line
from warmstart.config.common_words import _BY_WORD, common_word
from warmstart.engine import LAUNCH_FLAGS
from warmstart.engine.run.command_line import CONFIG_FLAGS

FLAGS = {flag.name for flag in (*CONFIG_FLAGS, *LAUNCH_FLAGS)} | {"--eval-only"}


@pytest.mark.parametrize("word", _BY_WORD)
def test_the_answer_for_a_common_word_is_a_flag_or_keys_with_values_that_they_take(word: str) -> None:
    key, *rest = shlex.split(common_word(word))
    if key.startswith("--"):
        assert key in FLAGS
    else:
        get_cfg().merge_from_list([key, *rest])  # refuses an unknown key and a value of another type


@pytest.mark.parametrize(
    ("word", "value", "answer"),
    [
        ("--lr", "0.01", "SOLVER.BASE_LR 0.01"),
        ("--Learning_Rate", "", "SOLVER.BASE_LR 0.1"),
        ("-j", "8", "DATALOADER.NUM_WORKERS 8"),
        ("--pretrained", "true", "MODEL.WEIGHTS DEFAULT"),
        ("--data", "{x}", "DATASETS.TRAIN imagefolder:{x}"),
        ("--learning", "", ""),
        ("", "", ""),
    ],
)
def test_common_word_takes_the_value_of_the_user(word: str, value: str, answer: str) -> None:
    assert common_word(word, value) == answer


def mistakes(words: list[str]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_command_line(words, CONFIG_FLAGS, get_cfg().has_key)
    return caught.value.problems


def test_parse_command_line_answers_all_unknown_flags_at_once_and_takes_their_values() -> None:
    assert mistakes(["--lr", "0.1", "SEED", "1", "--epochs=3", "--pretrained", "--zz", "OUTPUT_DIR", "x"]) == [
        "command line: unknown flag --lr; write SOLVER.BASE_LR 0.1",
        "command line: unknown flag --epochs; write SOLVER.MAX_ITER 3ep",
        "command line: unknown flag --pretrained; write MODEL.WEIGHTS DEFAULT",
        "command line: unknown flag --zz; known: --config-file, --import, --print-config",
    ]


def test_parse_command_line_takes_a_short_flag_as_a_value_after_a_key() -> None:
    assert parse_command_line(["OUTPUT_DIR", "-b"], CONFIG_FLAGS, get_cfg().has_key)[1] == ["OUTPUT_DIR", "-b"]
    assert mistakes(["-b", "8"]) == ["command line: unknown flag -b; write SOLVER.IMS_PER_BATCH 8"]


def test_parse_command_line_answers_with_a_key_only_if_the_tool_takes_keys() -> None:
    with pytest.raises(ConfigError, match="^command line: unknown flag --lr; known: --config-file, "):
        parse_command_line(["--lr", "0.1"], CONFIG_FLAGS)
