"""What counts as a clear yes: half of what has to agree before anything is changed."""

import re

import pytest

from csproto.desk.handbook import default_handbook
from csproto.desk.lexicon import begins_with_yes

LEXICON = default_handbook().lexicon
YES = """
yes | yes please | Yes, and also cancel 160001 | actually, yes cancel it and also cancel 160001
ok thanks | sure go ahead | yes, when will I get my money? | Yes! | okay, do it | ok | 👌 | y
yes that's right | please do | yes, I don't need it any more | hi, yes | well... yes then
是 | 是的 | 好的，麻烦了 | 嗯 | 好的退吧 | 可以
对 | 好 | 行 | 是的取消吧 | 好，谢谢 | 嗯嗯 好的 | 确认
没问题，什么时候到账 | 好的，那就退吧 | 是的 地址对 | 对的 | 您好，可以的
"""
NO = """
yes? | yes, please don't | yes, hold on | sure, later | yes please? | ok sure? | yes... but not yet
yes I want to keep it | yes, wait | right shoe is broken | ok what | yes but | yes if it is free
no | ok never mind | absolutely not | yesterday | yeah right | sure you can? | what | cancel it
好的，等一下 | 好的我再想想 | 好的我不退了 | 是160001吗
好的，算了 | 好的没事了，辛苦了 | 好看吗 | 对面
是我 | 行不行 | 可以退货吗 | 是不是 | 不是 | 好的话
我考虑一下 | 算了 | 好的不用了 | 好像 | 取消吧 | 谢谢
"""


def messages(block: str) -> list[str]:
    return [text.strip() for line in block.strip().splitlines() for text in line.split("|")]


@pytest.mark.parametrize("text", messages(YES))
def test_a_clear_yes(text: str) -> None:
    assert begins_with_yes(text, LEXICON)


@pytest.mark.parametrize("text", messages(NO))
def test_no_clear_yes(text: str) -> None:
    assert not begins_with_yes(text, LEXICON)


@pytest.mark.parametrize("text", messages(YES))
@pytest.mark.parametrize("taken_back", ["? ", ", but wait", "，算了", ", no", "吗"])
def test_a_yes_that_is_taken_back_or_asked(text: str, taken_back: str) -> None:
    first = re.split("[,，]", text)[0].rstrip("!")
    assert not begins_with_yes(first + taken_back, LEXICON)
